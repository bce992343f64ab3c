-- Sessions as people look for them, the ledger of what was used, and the files that both are read from.
-- The PostgreSQL file of the same number makes the same tables, columns, indexes and triggers, and says
-- what they are for.

ALTER TABLE sessions ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN title TEXT;
ALTER TABLE sessions ADD COLUMN first_prompt TEXT;
ALTER TABLE sessions ADD COLUMN words TEXT NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN directory TEXT;
ALTER TABLE sessions ADD COLUMN transcript TEXT;
ALTER TABLE sessions ADD COLUMN lineage TEXT;
ALTER TABLE sessions ADD COLUMN models TEXT NOT NULL DEFAULT '[]';
ALTER TABLE sessions ADD COLUMN user_messages INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN assistant_messages INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN tool_messages INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN started_at INTEGER;
ALTER TABLE sessions ADD COLUMN ended_at INTEGER;
ALTER TABLE sessions ADD COLUMN node_id TEXT;
ALTER TABLE sessions ADD COLUMN removed_at INTEGER;
CREATE UNIQUE INDEX sessions_external ON sessions (assistant, external_id) WHERE external_id IS NOT NULL;
CREATE INDEX sessions_external_name ON sessions (external_id) WHERE external_id IS NOT NULL;
CREATE INDEX sessions_parent ON sessions (parent_id) WHERE parent_id IS NOT NULL;

CREATE TABLE session_runners (
    session_id TEXT NOT NULL REFERENCES sessions (id),
    runner_id  TEXT NOT NULL REFERENCES runners (id),
    epoch      INTEGER NOT NULL,
    first_at   INTEGER NOT NULL,
    last_at    INTEGER NOT NULL,
    PRIMARY KEY (session_id, runner_id, epoch)
) STRICT, WITHOUT ROWID;
CREATE INDEX session_runners_runner ON session_runners (runner_id);
INSERT INTO session_runners (session_id, runner_id, epoch, first_at, last_at)
    SELECT session_id, id, epoch, created_at, updated_at FROM runners WHERE session_id IS NOT NULL;

CREATE TRIGGER runners_begin_session AFTER INSERT ON runners FOR EACH ROW
    WHEN NEW.session_id IS NOT NULL
BEGIN
    INSERT INTO session_runners (session_id, runner_id, epoch, first_at, last_at)
        VALUES (NEW.session_id, NEW.id, NEW.epoch, NEW.updated_at, NEW.updated_at)
        ON CONFLICT (session_id, runner_id, epoch) DO UPDATE SET last_at = max(last_at, excluded.last_at);
END;
CREATE TRIGGER runners_change_session AFTER UPDATE ON runners FOR EACH ROW
    WHEN NEW.session_id IS NOT NULL AND (NEW.session_id IS NOT OLD.session_id
        OR NEW.epoch <> OLD.epoch OR NEW.ended_at IS NOT NULL)
BEGIN
    INSERT INTO session_runners (session_id, runner_id, epoch, first_at, last_at)
        VALUES (NEW.session_id, NEW.id, NEW.epoch, NEW.updated_at, NEW.updated_at)
        ON CONFLICT (session_id, runner_id, epoch) DO UPDATE SET last_at = max(last_at, excluded.last_at);
END;

CREATE TABLE follows (
    node_id    TEXT NOT NULL,
    path       TEXT NOT NULL,
    assistant  TEXT NOT NULL,
    runner_id  TEXT,
    read_to    INTEGER NOT NULL,
    memory     TEXT NOT NULL,
    device     TEXT NOT NULL,
    inode      TEXT NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (node_id, path)
) STRICT, WITHOUT ROWID;
CREATE INDEX follows_runner ON follows (runner_id) WHERE runner_id IS NOT NULL;

CREATE TABLE usage_records (
    assistant        TEXT NOT NULL,
    key              TEXT NOT NULL,
    external_session TEXT NOT NULL,
    session_id       TEXT,
    runner_id        TEXT,
    project_id       TEXT,
    request_id       TEXT,
    message_id       TEXT,
    model            TEXT NOT NULL,
    purpose          TEXT NOT NULL,
    input            INTEGER NOT NULL,
    output           INTEGER NOT NULL,
    cache_read       INTEGER NOT NULL,
    cache_write      INTEGER NOT NULL,
    cache_write_1h   INTEGER NOT NULL,
    reasoning        INTEGER NOT NULL,
    reported_cost    INTEGER,
    cost             INTEGER,
    price_version    TEXT,
    quality          TEXT NOT NULL,
    at               INTEGER NOT NULL,
    file             TEXT NOT NULL,
    file_offset      INTEGER NOT NULL,
    recorded_at      INTEGER NOT NULL,
    PRIMARY KEY (assistant, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_records_page ON usage_records (at, assistant, key);
CREATE INDEX usage_records_project_page ON usage_records (project_id, at, assistant, key);
CREATE INDEX usage_records_session_page ON usage_records (session_id, at, assistant, key);
CREATE INDEX usage_records_runner_page ON usage_records (runner_id, at, assistant, key);

CREATE TABLE usage_quarters (
    quarter        INTEGER NOT NULL,
    project_id     TEXT NOT NULL,
    session_id     TEXT NOT NULL,
    runner_id      TEXT NOT NULL,
    assistant      TEXT NOT NULL,
    model          TEXT NOT NULL,
    input          INTEGER NOT NULL,
    output         INTEGER NOT NULL,
    cache_read     INTEGER NOT NULL,
    cache_write    INTEGER NOT NULL,
    cache_write_1h INTEGER NOT NULL,
    reasoning      INTEGER NOT NULL,
    cost           INTEGER NOT NULL,
    reported       INTEGER NOT NULL,
    messages       INTEGER NOT NULL,
    unpriced       INTEGER NOT NULL,
    reporting      INTEGER NOT NULL,
    estimated      INTEGER NOT NULL,
    lost           INTEGER NOT NULL,
    PRIMARY KEY (quarter, project_id, session_id, runner_id, assistant, model)
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_quarters_project ON usage_quarters (project_id, quarter);
CREATE INDEX usage_quarters_session ON usage_quarters (session_id, quarter);
CREATE INDEX usage_quarters_runner ON usage_quarters (runner_id, quarter);
