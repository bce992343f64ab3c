-- Windows of subscriptions, as they were last told on each host. The PostgreSQL file of the same number
-- makes the same table.
CREATE TABLE windows (
    node_id   TEXT NOT NULL,
    assistant TEXT NOT NULL,
    name      TEXT NOT NULL,
    runner_id TEXT NOT NULL,
    at        INTEGER NOT NULL,
    record    TEXT NOT NULL,
    PRIMARY KEY (node_id, assistant, name)
) STRICT, WITHOUT ROWID;
