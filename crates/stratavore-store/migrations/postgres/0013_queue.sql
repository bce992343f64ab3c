-- What is to be done in projects, when its turn comes. record is the noun itself as JSON; columns are what
-- queries need. runner_id is the runner of the attempt that runs: it is one of one item.
CREATE TABLE queue_items (
    id         text COLLATE "C" PRIMARY KEY,
    project_id text COLLATE "C" NOT NULL REFERENCES projects (id),
    state      text COLLATE "C" NOT NULL,
    priority   bigint NOT NULL,
    not_before timestamptz,
    runner_id  text COLLATE "C" REFERENCES runners (id),
    generation bigint NOT NULL,
    created_at timestamptz NOT NULL,
    ended_at   timestamptz,
    record     text NOT NULL
);
CREATE INDEX queue_items_waiting ON queue_items (project_id, priority DESC, created_at, id)
    WHERE state = 'queued';
CREATE UNIQUE INDEX queue_items_running ON queue_items (runner_id) WHERE runner_id IS NOT NULL;
CREATE INDEX queue_items_page ON queue_items (project_id, created_at, id);

-- How a project's queue is worked off; without a row as usual.
CREATE TABLE queues (
    project_id text COLLATE "C" PRIMARY KEY REFERENCES projects (id),
    record     text NOT NULL
);
