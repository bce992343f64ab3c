-- A program to come adds columns with a default, a table, an index and a trigger.
ALTER TABLE projects ADD COLUMN owner text;
ALTER TABLE runners ADD COLUMN colour text NOT NULL DEFAULT 'none';
ALTER TABLE events ADD COLUMN weight bigint NOT NULL DEFAULT 1;
ALTER TABLE outbox ADD COLUMN urgency bigint NOT NULL DEFAULT 0;
CREATE INDEX runners_colour ON runners (colour, created_at);
CREATE TABLE runner_colours (
    runner_id text COLLATE "C" PRIMARY KEY REFERENCES runners (id),
    colour    text NOT NULL
);
CREATE FUNCTION runner_is_coloured() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO runner_colours (runner_id, colour) VALUES (NEW.id, NEW.colour);
    RETURN NULL;
END
$$;
CREATE TRIGGER runners_coloured AFTER INSERT ON runners FOR EACH ROW EXECUTE FUNCTION runner_is_coloured();
