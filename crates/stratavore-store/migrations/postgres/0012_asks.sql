-- What assistants ask their persons, and prompts on their way to assistants. record is the noun itself as
-- JSON; columns are what queries need. An ask of a hook's call is there once, however often the call is read.
CREATE TABLE asks (
    id        text COLLATE "C" PRIMARY KEY,
    runner_id text COLLATE "C" NOT NULL REFERENCES runners (id),
    epoch     bigint NOT NULL,
    call      text COLLATE "C",
    state     text COLLATE "C" NOT NULL,
    asked_at  timestamptz NOT NULL,
    record    text NOT NULL
);
CREATE UNIQUE INDEX asks_call ON asks (runner_id, call) WHERE call IS NOT NULL;
CREATE INDEX asks_open ON asks (asked_at, id) WHERE state = 'open';
CREATE INDEX asks_runner ON asks (runner_id, asked_at, id);

CREATE TABLE prompts (
    id        text COLLATE "C" PRIMARY KEY,
    runner_id text COLLATE "C" NOT NULL REFERENCES runners (id),
    epoch     bigint NOT NULL,
    state     text COLLATE "C" NOT NULL,
    made_at   timestamptz NOT NULL,
    record    text NOT NULL
);
CREATE INDEX prompts_runner ON prompts (runner_id, made_at, id);
