-- What assistants ask their persons, and prompts on their way to assistants. The PostgreSQL file of the
-- same number says what the columns are for.
CREATE TABLE asks (
    id        TEXT PRIMARY KEY NOT NULL,
    runner_id TEXT NOT NULL REFERENCES runners (id),
    epoch     INTEGER NOT NULL,
    call      TEXT,
    state     TEXT NOT NULL,
    asked_at  INTEGER NOT NULL,
    record    TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX asks_call ON asks (runner_id, call) WHERE call IS NOT NULL;
CREATE INDEX asks_open ON asks (asked_at, id) WHERE state = 'open';
CREATE INDEX asks_runner ON asks (runner_id, asked_at, id);

CREATE TABLE prompts (
    id        TEXT PRIMARY KEY NOT NULL,
    runner_id TEXT NOT NULL REFERENCES runners (id),
    epoch     INTEGER NOT NULL,
    state     TEXT NOT NULL,
    made_at   INTEGER NOT NULL,
    record    TEXT NOT NULL
) STRICT;
CREATE INDEX prompts_runner ON prompts (runner_id, made_at, id);
