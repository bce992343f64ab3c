-- What is asked often reads no more than it answers. The SQLite file of the same number makes the same
-- tables, columns, indexes and triggers. It only adds, and what it adds is kept by triggers: programs
-- of before go on with it.

-- Takes the lock of a project that was read without it, and refuses if it is another by now or has a
-- live runner that was not seen: what was decided on it may be wrong. Volatile, and so each of its
-- statements sees what has been committed when it begins: the second one what those did who had the
-- lock before.
CREATE FUNCTION hold_project(project text, seen bigint, holders text[]) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM FROM projects WHERE id = project AND generation = seen FOR NO KEY UPDATE;
    IF NOT FOUND OR EXISTS (
        SELECT FROM runners WHERE project_id = project AND ended_at IS NULL AND id <> ALL (holders)
    ) THEN
        RAISE EXCEPTION 'project % is no longer as it was seen', project
            USING ERRCODE = 'serialization_failure';
    END IF;
    RETURN true;
END
$$;

-- The runners that are lost and that no other carries on: what `recover` looks through.
CREATE TABLE lost_runners (
    runner_id  text COLLATE "C" PRIMARY KEY REFERENCES runners (id),
    node_id    text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL
);
CREATE INDEX lost_runners_page ON lost_runners (node_id, created_at, runner_id);
INSERT INTO lost_runners (runner_id, node_id, created_at)
    SELECT id, node_id, created_at FROM runners AS lost
    WHERE state = 'lost'
        AND NOT EXISTS (SELECT 1 FROM runners AS other WHERE other.successor_of = lost.id);

CREATE FUNCTION runner_is_lost() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO lost_runners (runner_id, node_id, created_at)
        VALUES (NEW.id, NEW.node_id, NEW.created_at);
    RETURN NULL;
END
$$;
CREATE FUNCTION runner_carries_on() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM lost_runners WHERE runner_id = NEW.successor_of;
    RETURN NULL;
END
$$;
-- None comes back: a runner that has ended never changes.
CREATE TRIGGER runners_lost AFTER UPDATE ON runners FOR EACH ROW
    WHEN (NEW.state = 'lost') EXECUTE FUNCTION runner_is_lost();
CREATE TRIGGER runners_carried_on AFTER INSERT ON runners FOR EACH ROW
    WHEN (NEW.successor_of IS NOT NULL) EXECUTE FUNCTION runner_carries_on();
