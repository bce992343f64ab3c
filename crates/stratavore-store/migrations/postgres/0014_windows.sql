-- Windows of subscriptions, as they were last told on each host. record is the noun itself as JSON. Only
-- adds. The SQLite file of the same number makes the same table.
CREATE TABLE windows (
    node_id   text COLLATE "C" NOT NULL,
    assistant text COLLATE "C" NOT NULL,
    name      text COLLATE "C" NOT NULL,
    runner_id text COLLATE "C" NOT NULL,
    at        timestamptz NOT NULL,
    record    text NOT NULL,
    PRIMARY KEY (node_id, assistant, name)
) WITH (fillfactor = 70);
