-- Where events are delivered to. The PostgreSQL file of the same number says what is what.

CREATE TABLE destinations (
    name       TEXT PRIMARY KEY NOT NULL,
    kind       TEXT NOT NULL,
    settings   TEXT NOT NULL,
    position   INTEGER NOT NULL,
    enabled    INTEGER NOT NULL,
    health     TEXT NOT NULL,
    problem    TEXT NOT NULL,
    told_at    INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE dead_letters (
    id          TEXT PRIMARY KEY NOT NULL,
    destination TEXT NOT NULL REFERENCES destinations (name),
    event_id    TEXT NOT NULL REFERENCES events (id),
    position    INTEGER NOT NULL,
    reason      TEXT NOT NULL,
    attempts    INTEGER NOT NULL,
    died_at     INTEGER NOT NULL,
    retry_at    INTEGER,
    replayed_at INTEGER,
    CONSTRAINT dead_letters_event UNIQUE (destination, event_id)
) STRICT;
CREATE INDEX dead_letters_page ON dead_letters (destination, position) WHERE replayed_at IS NULL;
CREATE INDEX dead_letters_retry ON dead_letters (destination, retry_at)
    WHERE retry_at IS NOT NULL AND replayed_at IS NULL;
