-- What is to be done in projects, when its turn comes. The PostgreSQL file of the same number says what the
-- columns are for.
CREATE TABLE queue_items (
    id         TEXT PRIMARY KEY NOT NULL,
    project_id TEXT NOT NULL REFERENCES projects (id),
    state      TEXT NOT NULL,
    priority   INTEGER NOT NULL,
    not_before INTEGER,
    runner_id  TEXT REFERENCES runners (id),
    generation INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    ended_at   INTEGER,
    record     TEXT NOT NULL
) STRICT;
CREATE INDEX queue_items_waiting ON queue_items (project_id, priority DESC, created_at, id)
    WHERE state = 'queued';
CREATE UNIQUE INDEX queue_items_running ON queue_items (runner_id) WHERE runner_id IS NOT NULL;
CREATE INDEX queue_items_page ON queue_items (project_id, created_at, id);

CREATE TABLE queues (
    project_id TEXT PRIMARY KEY NOT NULL REFERENCES projects (id),
    record     TEXT NOT NULL
) STRICT;
