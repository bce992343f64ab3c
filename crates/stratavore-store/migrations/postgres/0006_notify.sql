-- Messages to destinations that tell people and programs. One is written down before it is sent, in
-- the transaction that moves its destination's position past the events that it tells of, so it has
-- the same id in every attempt and by every daemon.
--
-- message and history are JSON: what it says, and the latest attempts. settled_at: it was delivered,
-- or given up.

CREATE TABLE notifications (
    id          text COLLATE "C" PRIMARY KEY,
    destination text COLLATE "C" NOT NULL REFERENCES destinations (name),
    message     text NOT NULL,
    state       text COLLATE "C" NOT NULL,
    created_at  timestamptz NOT NULL,
    due_at      timestamptz NOT NULL,
    attempts    bigint NOT NULL,
    history     text NOT NULL,
    settled_at  timestamptz
);
CREATE INDEX notifications_page ON notifications (destination, created_at, id);
CREATE INDEX notifications_waiting ON notifications (destination, due_at) WHERE state = 'waiting';
CREATE INDEX notifications_dead ON notifications (destination) WHERE state = 'dead';
