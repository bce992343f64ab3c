-- Sessions as people look for them, the ledger of what was used, and the files that both are read from.
-- The SQLite file of the same number makes the same tables, columns, indexes and triggers. It only adds:
-- programs of before go on with it.

-- generation is the number of the session's last event; 0: it has none yet. words is what a list is
-- searched by, in lower case. lineage says how it came from parent_id. ended_at is when something was
-- last said in it.
ALTER TABLE sessions
    ADD COLUMN generation         bigint NOT NULL DEFAULT 0,
    ADD COLUMN title              text,
    ADD COLUMN first_prompt       text,
    ADD COLUMN words              text NOT NULL DEFAULT '',
    ADD COLUMN directory          text,
    ADD COLUMN transcript         text,
    ADD COLUMN lineage            text COLLATE "C",
    ADD COLUMN models             text NOT NULL DEFAULT '[]',
    ADD COLUMN user_messages      bigint NOT NULL DEFAULT 0,
    ADD COLUMN assistant_messages bigint NOT NULL DEFAULT 0,
    ADD COLUMN tool_messages      bigint NOT NULL DEFAULT 0,
    ADD COLUMN started_at         timestamptz,
    ADD COLUMN ended_at           timestamptz,
    ADD COLUMN node_id            text COLLATE "C",
    ADD COLUMN removed_at         timestamptz;
CREATE UNIQUE INDEX sessions_external ON sessions (assistant, external_id) WHERE external_id IS NOT NULL;
CREATE INDEX sessions_external_name ON sessions (external_id COLLATE "C") WHERE external_id IS NOT NULL;
CREATE INDEX sessions_parent ON sessions (parent_id) WHERE parent_id IS NOT NULL;

-- Which runners have held a session, and at which of their starts.
CREATE TABLE session_runners (
    session_id text COLLATE "C" NOT NULL REFERENCES sessions (id),
    runner_id  text COLLATE "C" NOT NULL REFERENCES runners (id),
    epoch      bigint NOT NULL,
    first_at   timestamptz NOT NULL,
    last_at    timestamptz NOT NULL,
    PRIMARY KEY (session_id, runner_id, epoch)
);
CREATE INDEX session_runners_runner ON session_runners (runner_id);
INSERT INTO session_runners (session_id, runner_id, epoch, first_at, last_at)
    SELECT session_id, id, epoch, created_at, updated_at FROM runners WHERE session_id IS NOT NULL;

CREATE FUNCTION runner_holds_session() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO session_runners AS kept (session_id, runner_id, epoch, first_at, last_at)
        VALUES (NEW.session_id, NEW.id, NEW.epoch, NEW.updated_at, NEW.updated_at)
        ON CONFLICT (session_id, runner_id, epoch) DO UPDATE
            SET last_at = greatest(kept.last_at, excluded.last_at);
    RETURN NULL;
END
$$;
CREATE TRIGGER runners_begin_session AFTER INSERT ON runners FOR EACH ROW
    WHEN (NEW.session_id IS NOT NULL) EXECUTE FUNCTION runner_holds_session();
CREATE TRIGGER runners_change_session AFTER UPDATE ON runners FOR EACH ROW
    WHEN (NEW.session_id IS NOT NULL AND (NEW.session_id IS DISTINCT FROM OLD.session_id
        OR NEW.epoch <> OLD.epoch OR NEW.ended_at IS NOT NULL))
    EXECUTE FUNCTION runner_holds_session();

-- How far each file that tells of assistants has been read. device and inode say which file it was that
-- had the path; memory is what its reader keeps in mind, as JSON.
CREATE TABLE follows (
    node_id    text COLLATE "C" NOT NULL,
    path       text COLLATE "C" NOT NULL,
    assistant  text COLLATE "C" NOT NULL,
    runner_id  text COLLATE "C",
    read_to    bigint NOT NULL,
    memory     text NOT NULL,
    device     text NOT NULL,
    inode      text NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (node_id, path)
) WITH (fillfactor = 70);
CREATE INDEX follows_runner ON follows (runner_id) WHERE runner_id IS NOT NULL;

-- The ledger: one row for each billed message, however often it was told. Money is in millionths of a US
-- dollar. What rows refer to is written in the same transaction or is never deleted; references would be
-- looked up again for each of a hundred thousand rows.
CREATE TABLE usage_records (
    assistant        text COLLATE "C" NOT NULL,
    key              text COLLATE "C" NOT NULL,
    external_session text NOT NULL,
    session_id       text COLLATE "C",
    runner_id        text COLLATE "C",
    project_id       text COLLATE "C",
    request_id       text,
    message_id       text,
    model            text COLLATE "C" NOT NULL,
    purpose          text COLLATE "C" NOT NULL,
    input            bigint NOT NULL,
    output           bigint NOT NULL,
    cache_read       bigint NOT NULL,
    cache_write      bigint NOT NULL,
    cache_write_1h   bigint NOT NULL,
    reasoning        bigint NOT NULL,
    reported_cost    bigint,
    cost             bigint,
    price_version    text,
    quality          text COLLATE "C" NOT NULL,
    at               timestamptz NOT NULL,
    file             text NOT NULL,
    file_offset      bigint NOT NULL,
    recorded_at      timestamptz NOT NULL,
    PRIMARY KEY (assistant, key)
);
CREATE INDEX usage_records_page ON usage_records (at, assistant, key);
CREATE INDEX usage_records_project_page ON usage_records (project_id, at, assistant, key);
CREATE INDEX usage_records_session_page ON usage_records (session_id, at, assistant, key);
CREATE INDEX usage_records_runner_page ON usage_records (runner_id, at, assistant, key);

-- Sums of the ledger, by quarters of an hour: at one of these a day begins, whatever the time zone. What
-- belongs to none has an empty text there.
CREATE TABLE usage_quarters (
    quarter        timestamptz NOT NULL,
    project_id     text COLLATE "C" NOT NULL,
    session_id     text COLLATE "C" NOT NULL,
    runner_id      text COLLATE "C" NOT NULL,
    assistant      text COLLATE "C" NOT NULL,
    model          text COLLATE "C" NOT NULL,
    input          bigint NOT NULL,
    output         bigint NOT NULL,
    cache_read     bigint NOT NULL,
    cache_write    bigint NOT NULL,
    cache_write_1h bigint NOT NULL,
    reasoning      bigint NOT NULL,
    cost           bigint NOT NULL,
    reported       bigint NOT NULL,
    messages       bigint NOT NULL,
    unpriced       bigint NOT NULL,
    reporting      bigint NOT NULL,
    estimated      bigint NOT NULL,
    lost           bigint NOT NULL,
    PRIMARY KEY (quarter, project_id, session_id, runner_id, assistant, model)
) WITH (fillfactor = 70);
CREATE INDEX usage_quarters_project ON usage_quarters (project_id, quarter);
CREATE INDEX usage_quarters_session ON usage_quarters (session_id, quarter);
CREATE INDEX usage_quarters_runner ON usage_quarters (runner_id, quarter);
