-- What is asked often reads no more than it answers. The PostgreSQL file of the same number makes the
-- same tables, columns, indexes and triggers. It only adds, and what it adds is kept by triggers:
-- programs of before go on with it.

-- The runners that are lost and that no other carries on: what `recover` looks through.
CREATE TABLE lost_runners (
    runner_id  TEXT PRIMARY KEY NOT NULL REFERENCES runners (id),
    node_id    TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX lost_runners_page ON lost_runners (node_id, created_at, runner_id);
INSERT INTO lost_runners (runner_id, node_id, created_at)
    SELECT id, node_id, created_at FROM runners AS lost
    WHERE state = 'lost'
        AND NOT EXISTS (SELECT 1 FROM runners AS other WHERE other.successor_of = lost.id);

-- None comes back: a runner that has ended never changes.
CREATE TRIGGER runners_lost AFTER UPDATE ON runners FOR EACH ROW WHEN NEW.state = 'lost'
BEGIN
    INSERT INTO lost_runners (runner_id, node_id, created_at)
        VALUES (NEW.id, NEW.node_id, NEW.created_at);
END;
CREATE TRIGGER runners_carried_on AFTER INSERT ON runners FOR EACH ROW
    WHEN NEW.successor_of IS NOT NULL
BEGIN
    DELETE FROM lost_runners WHERE runner_id = NEW.successor_of;
END;
