-- Runners of nodes that are drained. The PostgreSQL file of the same number says what the columns are for.
ALTER TABLE nodes ADD COLUMN moving TEXT;

CREATE TABLE moves (
    runner_id TEXT PRIMARY KEY NOT NULL REFERENCES runners (id),
    node_id   TEXT NOT NULL REFERENCES nodes (id),
    record    TEXT NOT NULL
) STRICT;
CREATE INDEX moves_of_node ON moves (node_id);
