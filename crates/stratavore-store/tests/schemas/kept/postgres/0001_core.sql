-- The core's nouns. The SQLite file of the same number makes the same tables and columns.
--
-- Ids and names compare by bytes (COLLATE "C"), so that the beginning of an id is a range of the
-- primary key. Columns are what queries need; `record` is the noun itself as JSON, kept as text
-- because jsonb can hold neither a NUL character nor a number as it was written.

CREATE TABLE nodes (
    id       text COLLATE "C" PRIMARY KEY,
    hostname text NOT NULL,
    boot_id  text NOT NULL,
    seen_at  timestamptz NOT NULL
);

CREATE TABLE daemons (
    id         text COLLATE "C" PRIMARY KEY,
    node_id    text COLLATE "C" NOT NULL REFERENCES nodes (id),
    version    text NOT NULL,
    pid        bigint NOT NULL,
    started_at timestamptz NOT NULL,
    seen_at    timestamptz NOT NULL,
    stopped_at timestamptz
);

CREATE TABLE leases (
    name       text COLLATE "C" PRIMARY KEY,
    holder     text COLLATE "C" NOT NULL,
    term       bigint NOT NULL,
    expires_at timestamptz NOT NULL
);

CREATE TABLE projects (
    id          text COLLATE "C" PRIMARY KEY,
    name        text COLLATE "C" NOT NULL,
    generation  bigint NOT NULL,
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL,
    archived_at timestamptz,
    deleted_at  timestamptz,
    record      text NOT NULL,
    CHECK (deleted_at IS NULL OR archived_at IS NOT NULL)
);
CREATE UNIQUE INDEX projects_name ON projects (name) WHERE archived_at IS NULL;
CREATE INDEX projects_old_name ON projects (name) WHERE archived_at IS NOT NULL;

CREATE TABLE sessions (
    id          text COLLATE "C" PRIMARY KEY,
    project_id  text COLLATE "C" NOT NULL REFERENCES projects (id),
    assistant   text COLLATE "C" NOT NULL,
    external_id text,
    parent_id   text COLLATE "C" REFERENCES sessions (id),
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL
);
CREATE INDEX sessions_page ON sessions (updated_at, id);
CREATE INDEX sessions_project_page ON sessions (project_id, updated_at, id);

-- A runner is live while ended_at is null. limits are what it holds of the project's quota, as
-- JSON, for admissions, which read those of all live runners.
CREATE TABLE runners (
    id           text COLLATE "C" PRIMARY KEY,
    project_id   text COLLATE "C" NOT NULL REFERENCES projects (id),
    name         text COLLATE "C" NOT NULL,
    node_id      text COLLATE "C" NOT NULL REFERENCES nodes (id),
    limits       text NOT NULL,
    state        text COLLATE "C" NOT NULL,
    epoch        bigint NOT NULL,
    generation   bigint NOT NULL,
    session_id   text COLLATE "C" REFERENCES sessions (id),
    successor_of text COLLATE "C" REFERENCES runners (id),
    created_at   timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL,
    ended_at     timestamptz,
    record       text NOT NULL,
    CHECK ((ended_at IS NOT NULL) = (state IN ('exited', 'failed', 'lost')))
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX runners_live_name ON runners (project_id, name) WHERE ended_at IS NULL;
CREATE UNIQUE INDEX runners_live_session ON runners (session_id) WHERE ended_at IS NULL;
CREATE UNIQUE INDEX runners_successor ON runners (successor_of) WHERE successor_of IS NOT NULL;
-- What is asked of live runners reads live ones only, and what is asked of a name in a project reads
-- that project only, however many have ended.
CREATE INDEX runners_live_name_anywhere ON runners (name) WHERE ended_at IS NULL;
CREATE INDEX runners_ended_name ON runners (name, created_at, id) WHERE ended_at IS NOT NULL;
CREATE INDEX runners_project_ended_name ON runners (project_id, name, created_at, id)
    WHERE ended_at IS NOT NULL;
CREATE INDEX runners_page ON runners (created_at, id);
CREATE INDEX runners_project_page ON runners (project_id, created_at, id);
CREATE INDEX runners_live_page ON runners (created_at, id) WHERE ended_at IS NULL;
CREATE INDEX runners_node_page ON runners (node_id, created_at, id) WHERE ended_at IS NULL;
-- After the one of all that live: a plan that is made while there are few, and then kept, finds both
-- alike and takes the later one.
CREATE INDEX runners_live_project_page ON runners (project_id, created_at, id)
    WHERE ended_at IS NULL;

-- Written with every heartbeat. No column that changes is indexed and half of each page is free,
-- so an update stays within its page and touches no index.
CREATE TABLE runner_liveness (
    runner_id    text COLLATE "C" PRIMARY KEY REFERENCES runners (id),
    epoch        bigint NOT NULL,
    at           timestamptz NOT NULL,
    cpu_ms       bigint NOT NULL,
    memory       bigint NOT NULL,
    processes    bigint NOT NULL,
    output_bytes bigint NOT NULL,
    output_at    timestamptz,
    viewers      bigint NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- position is given once, by the relay, without a gap: see event_positions.
CREATE TABLE events (
    id         text COLLATE "C" PRIMARY KEY,
    position   bigint UNIQUE,
    entity     text COLLATE "C" NOT NULL,
    entity_id  text COLLATE "C" NOT NULL,
    name       text NOT NULL,
    project_id text COLLATE "C",
    seq        bigint NOT NULL,
    kind       text COLLATE "C" NOT NULL,
    at         timestamptz NOT NULL,
    caused_by  text NOT NULL,
    data       text NOT NULL,
    CONSTRAINT events_seq UNIQUE (entity_id, seq)
);
CREATE INDEX events_entity_page ON events (entity_id, position);
CREATE INDEX events_project_page ON events (project_id, position);

-- One row: the position of the event that was published last.
CREATE TABLE event_positions (
    name text COLLATE "C" PRIMARY KEY,
    last bigint NOT NULL
);
INSERT INTO event_positions (name, last) VALUES ('events', 0);

CREATE TABLE outbox (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    destination text COLLATE "C" NOT NULL,
    event_id    text COLLATE "C" NOT NULL REFERENCES events (id),
    created_at  timestamptz NOT NULL,
    CONSTRAINT outbox_event UNIQUE (event_id, destination)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

CREATE TABLE idempotency_records (
    key        text COLLATE "C" PRIMARY KEY,
    request    bytea NOT NULL,
    answer     text,
    expires_at timestamptz NOT NULL
);
CREATE INDEX idempotency_records_expiry ON idempotency_records (expires_at);

CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%', TG_ARGV[0] USING ERRCODE = 'integrity_constraint_violation';
END
$$;

CREATE TRIGGER runners_terminal BEFORE UPDATE ON runners FOR EACH ROW
    WHEN (OLD.ended_at IS NOT NULL)
    EXECUTE FUNCTION refuse('a runner that has ended never changes');
CREATE TRIGGER runners_epoch BEFORE UPDATE ON runners FOR EACH ROW
    WHEN (NEW.epoch < OLD.epoch OR NEW.id <> OLD.id)
    EXECUTE FUNCTION refuse('the epoch of a runner never shrinks');
CREATE TRIGGER runners_kept BEFORE DELETE ON runners FOR EACH ROW
    EXECUTE FUNCTION refuse('a runner is never deleted');

CREATE TRIGGER events_immutable BEFORE UPDATE ON events FOR EACH ROW
    WHEN (OLD.position IS NOT NULL OR NEW.position IS NULL
        OR (NEW.id, NEW.entity, NEW.entity_id, NEW.name, NEW.seq, NEW.kind, NEW.at, NEW.caused_by, NEW.data)
            <> (OLD.id, OLD.entity, OLD.entity_id, OLD.name, OLD.seq, OLD.kind, OLD.at, OLD.caused_by, OLD.data)
        OR NEW.project_id IS DISTINCT FROM OLD.project_id)
    EXECUTE FUNCTION refuse('an event never changes; its position is given once');
CREATE TRIGGER events_kept BEFORE DELETE ON events FOR EACH ROW
    EXECUTE FUNCTION refuse('an event is never deleted');
