-- Budgets, what each has counted in each of its periods, and what each runner has of it. Only adds.
--
-- The row of a budget is its lock: whoever reserves, settles or changes it holds that row first, those
-- of several in the order of their ids.
CREATE TABLE budgets (
    id         text COLLATE "C" PRIMARY KEY,
    name       text COLLATE "C" NOT NULL,
    project_id text COLLATE "C",
    runner_id  text COLLATE "C",
    generation bigint NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    removed_at timestamptz,
    record     text NOT NULL
);
CREATE UNIQUE INDEX budgets_name ON budgets (name) WHERE removed_at IS NULL;

-- period: when it begins, or the runner whose it is; then it ends with the runner. reached is JSON.
CREATE TABLE budget_periods (
    budget_id  text COLLATE "C" NOT NULL REFERENCES budgets (id),
    period     text COLLATE "C" NOT NULL,
    ends_at    timestamptz,
    used       bigint NOT NULL,
    reserved   bigint NOT NULL CHECK (reserved >= 0),
    reached    text NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (budget_id, period)
);
CREATE INDEX budget_periods_end ON budget_periods (ends_at);

-- settled: what the runner has used, first of what it has reserved. allowed: up to which of that it may
-- go on whatever the budget says.
CREATE TABLE budget_reservations (
    budget_id   text COLLATE "C" NOT NULL,
    period      text COLLATE "C" NOT NULL,
    runner_id   text COLLATE "C" NOT NULL,
    reserved    bigint NOT NULL,
    settled     bigint NOT NULL,
    allowed     bigint,
    released_at timestamptz,
    PRIMARY KEY (budget_id, period, runner_id)
);
CREATE INDEX budget_reservations_open ON budget_reservations (runner_id) WHERE released_at IS NULL;

-- The runners that a budget holds at the moment. was_paused: a person had paused it before.
CREATE TABLE budget_holds (
    runner_id  text COLLATE "C" PRIMARY KEY,
    node_id    text COLLATE "C" NOT NULL,
    budget_id  text COLLATE "C" NOT NULL,
    period     text COLLATE "C" NOT NULL,
    step       text NOT NULL,
    was_paused bigint NOT NULL,
    at         timestamptz NOT NULL
);
CREATE INDEX budget_holds_node ON budget_holds (node_id);

-- Up to when the running time of a runner has been counted.
CREATE TABLE budget_clocks (
    runner_id text COLLATE "C" PRIMARY KEY,
    node_id   text COLLATE "C" NOT NULL,
    counted   timestamptz NOT NULL
);
CREATE INDEX budget_clocks_node ON budget_clocks (node_id);
