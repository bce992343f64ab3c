-- The core's nouns. The PostgreSQL file of the same number makes the same tables and columns, and
-- says what they are for. Times are microseconds since 1970.

CREATE TABLE nodes (
    id       TEXT PRIMARY KEY NOT NULL,
    hostname TEXT NOT NULL,
    boot_id  TEXT NOT NULL,
    seen_at  INTEGER NOT NULL
) STRICT;

CREATE TABLE daemons (
    id         TEXT PRIMARY KEY NOT NULL,
    node_id    TEXT NOT NULL REFERENCES nodes (id),
    version    TEXT NOT NULL,
    pid        INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    seen_at    INTEGER NOT NULL,
    stopped_at INTEGER
) STRICT;

CREATE TABLE leases (
    name       TEXT PRIMARY KEY NOT NULL,
    holder     TEXT NOT NULL,
    term       INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;

CREATE TABLE projects (
    id          TEXT PRIMARY KEY NOT NULL,
    name        TEXT NOT NULL,
    generation  INTEGER NOT NULL,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    archived_at INTEGER,
    deleted_at  INTEGER,
    record      TEXT NOT NULL,
    CHECK (deleted_at IS NULL OR archived_at IS NOT NULL)
) STRICT;
CREATE UNIQUE INDEX projects_name ON projects (name) WHERE archived_at IS NULL;
CREATE INDEX projects_old_name ON projects (name) WHERE archived_at IS NOT NULL;

CREATE TABLE sessions (
    id          TEXT PRIMARY KEY NOT NULL,
    project_id  TEXT NOT NULL REFERENCES projects (id),
    assistant   TEXT NOT NULL,
    external_id TEXT,
    parent_id   TEXT REFERENCES sessions (id),
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL
) STRICT;
CREATE INDEX sessions_page ON sessions (updated_at, id);
CREATE INDEX sessions_project_page ON sessions (project_id, updated_at, id);

CREATE TABLE runners (
    id           TEXT PRIMARY KEY NOT NULL,
    project_id   TEXT NOT NULL REFERENCES projects (id),
    name         TEXT NOT NULL,
    node_id      TEXT NOT NULL REFERENCES nodes (id),
    limits       TEXT NOT NULL,
    state        TEXT NOT NULL,
    epoch        INTEGER NOT NULL,
    generation   INTEGER NOT NULL,
    session_id   TEXT REFERENCES sessions (id),
    successor_of TEXT REFERENCES runners (id),
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    ended_at     INTEGER,
    record       TEXT NOT NULL,
    CHECK ((ended_at IS NOT NULL) = (state IN ('exited', 'failed', 'lost')))
) STRICT;
CREATE UNIQUE INDEX runners_live_name ON runners (project_id, name) WHERE ended_at IS NULL;
CREATE UNIQUE INDEX runners_live_session ON runners (session_id) WHERE ended_at IS NULL;
CREATE UNIQUE INDEX runners_successor ON runners (successor_of) WHERE successor_of IS NOT NULL;
CREATE INDEX runners_live_name_anywhere ON runners (name) WHERE ended_at IS NULL;
CREATE INDEX runners_ended_name ON runners (name, created_at, id) WHERE ended_at IS NOT NULL;
CREATE INDEX runners_project_ended_name ON runners (project_id, name, created_at, id)
    WHERE ended_at IS NOT NULL;
CREATE INDEX runners_page ON runners (created_at, id);
CREATE INDEX runners_project_page ON runners (project_id, created_at, id);
-- After the one before: where both fit, SQLite takes the later one.
CREATE INDEX runners_live_project_page ON runners (project_id, created_at, id)
    WHERE ended_at IS NULL;
CREATE INDEX runners_live_page ON runners (created_at, id) WHERE ended_at IS NULL;
CREATE INDEX runners_node_page ON runners (node_id, created_at, id) WHERE ended_at IS NULL;

CREATE TABLE runner_liveness (
    runner_id    TEXT PRIMARY KEY NOT NULL REFERENCES runners (id),
    epoch        INTEGER NOT NULL,
    at           INTEGER NOT NULL,
    cpu_ms       INTEGER NOT NULL,
    memory       INTEGER NOT NULL,
    processes    INTEGER NOT NULL,
    output_bytes INTEGER NOT NULL,
    output_at    INTEGER,
    viewers      INTEGER NOT NULL
) STRICT;

CREATE TABLE events (
    id         TEXT PRIMARY KEY NOT NULL,
    position   INTEGER UNIQUE,
    entity     TEXT NOT NULL,
    entity_id  TEXT NOT NULL,
    name       TEXT NOT NULL,
    project_id TEXT,
    seq        INTEGER NOT NULL,
    kind       TEXT NOT NULL,
    at         INTEGER NOT NULL,
    caused_by  TEXT NOT NULL,
    data       TEXT NOT NULL,
    CONSTRAINT events_seq UNIQUE (entity_id, seq)
) STRICT;
CREATE INDEX events_entity_page ON events (entity_id, position);
CREATE INDEX events_project_page ON events (project_id, position);

CREATE TABLE event_positions (
    name TEXT PRIMARY KEY NOT NULL,
    last INTEGER NOT NULL
) STRICT;
INSERT INTO event_positions (name, last) VALUES ('events', 0);

CREATE TABLE outbox (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    destination TEXT NOT NULL,
    event_id    TEXT NOT NULL REFERENCES events (id),
    created_at  INTEGER NOT NULL,
    CONSTRAINT outbox_event UNIQUE (event_id, destination)
) STRICT;

CREATE TABLE idempotency_records (
    key        TEXT PRIMARY KEY NOT NULL,
    request    BLOB NOT NULL,
    answer     TEXT,
    expires_at INTEGER NOT NULL
) STRICT;
CREATE INDEX idempotency_records_expiry ON idempotency_records (expires_at);

CREATE TRIGGER runners_terminal BEFORE UPDATE ON runners
    WHEN OLD.ended_at IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'a runner that has ended never changes');
END;
CREATE TRIGGER runners_epoch BEFORE UPDATE ON runners
    WHEN NEW.epoch < OLD.epoch OR NEW.id <> OLD.id
BEGIN
    SELECT RAISE(ABORT, 'the epoch of a runner never shrinks');
END;
CREATE TRIGGER runners_kept BEFORE DELETE ON runners
BEGIN
    SELECT RAISE(ABORT, 'a runner is never deleted');
END;

CREATE TRIGGER events_immutable BEFORE UPDATE ON events
    WHEN OLD.position IS NOT NULL OR NEW.position IS NULL
        OR (NEW.id, NEW.entity, NEW.entity_id, NEW.name, NEW.seq, NEW.kind, NEW.at, NEW.caused_by, NEW.data)
            <> (OLD.id, OLD.entity, OLD.entity_id, OLD.name, OLD.seq, OLD.kind, OLD.at, OLD.caused_by, OLD.data)
        OR NEW.project_id IS NOT OLD.project_id
BEGIN
    SELECT RAISE(ABORT, 'an event never changes; its position is given once');
END;
CREATE TRIGGER events_kept BEFORE DELETE ON events
BEGIN
    SELECT RAISE(ABORT, 'an event is never deleted');
END;
