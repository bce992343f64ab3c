-- A program to come adds columns with a default, a table, an index and a trigger.
ALTER TABLE projects ADD COLUMN owner TEXT;
ALTER TABLE runners ADD COLUMN colour TEXT NOT NULL DEFAULT 'none';
ALTER TABLE events ADD COLUMN weight INTEGER NOT NULL DEFAULT 1;
ALTER TABLE outbox ADD COLUMN urgency INTEGER NOT NULL DEFAULT 0;
CREATE INDEX runners_colour ON runners (colour, created_at);
CREATE TABLE runner_colours (
    runner_id TEXT PRIMARY KEY NOT NULL REFERENCES runners (id),
    colour    TEXT NOT NULL
) STRICT;
CREATE TRIGGER runners_coloured AFTER INSERT ON runners
BEGIN
    INSERT INTO runner_colours (runner_id, colour) VALUES (NEW.id, NEW.colour);
END;
