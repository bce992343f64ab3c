-- Runners of nodes that are drained, which are to go on on other ones. record is the move itself as JSON.
-- It only adds: programs of before know of no moves, and make none.
ALTER TABLE nodes ADD COLUMN moving text;

CREATE TABLE moves (
    runner_id text COLLATE "C" PRIMARY KEY REFERENCES runners (id),
    node_id   text COLLATE "C" NOT NULL REFERENCES nodes (id),
    record    text NOT NULL
);
CREATE INDEX moves_of_node ON moves (node_id);
