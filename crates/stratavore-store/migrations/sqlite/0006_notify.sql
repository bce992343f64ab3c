-- Messages to destinations that tell people and programs. The PostgreSQL file of the same number says
-- what is what.

CREATE TABLE notifications (
    id          TEXT PRIMARY KEY NOT NULL,
    destination TEXT NOT NULL REFERENCES destinations (name),
    message     TEXT NOT NULL,
    state       TEXT NOT NULL,
    created_at  INTEGER NOT NULL,
    due_at      INTEGER NOT NULL,
    attempts    INTEGER NOT NULL,
    history     TEXT NOT NULL,
    settled_at  INTEGER
) STRICT;
CREATE INDEX notifications_page ON notifications (destination, created_at, id);
CREATE INDEX notifications_waiting ON notifications (destination, due_at) WHERE state = 'waiting';
CREATE INDEX notifications_dead ON notifications (destination) WHERE state = 'dead';
