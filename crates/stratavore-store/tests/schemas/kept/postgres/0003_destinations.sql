-- Where events are delivered to. A destination is a cursor on the positions of events, so nothing
-- grows here while one of them is away. settings are of its kind, as JSON, and hold no secret.

CREATE TABLE destinations (
    name       text COLLATE "C" PRIMARY KEY,
    kind       text COLLATE "C" NOT NULL,
    settings   text NOT NULL,
    position   bigint NOT NULL,
    enabled    bigint NOT NULL,
    health     text COLLATE "C" NOT NULL,
    problem    text NOT NULL,
    told_at    timestamptz NOT NULL,
    created_at timestamptz NOT NULL
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- What a destination will not take. retry_at: somebody asked that it be tried again; replayed_at: it
-- was delivered then.
CREATE TABLE dead_letters (
    id          text COLLATE "C" PRIMARY KEY,
    destination text COLLATE "C" NOT NULL REFERENCES destinations (name),
    event_id    text COLLATE "C" NOT NULL REFERENCES events (id),
    position    bigint NOT NULL,
    reason      text NOT NULL,
    attempts    bigint NOT NULL,
    died_at     timestamptz NOT NULL,
    retry_at    timestamptz,
    replayed_at timestamptz,
    CONSTRAINT dead_letters_event UNIQUE (destination, event_id)
);
CREATE INDEX dead_letters_page ON dead_letters (destination, position) WHERE replayed_at IS NULL;
CREATE INDEX dead_letters_retry ON dead_letters (destination, retry_at)
    WHERE retry_at IS NOT NULL AND replayed_at IS NULL;
