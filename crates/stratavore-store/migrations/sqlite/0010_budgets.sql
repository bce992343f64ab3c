-- Budgets, and what they have counted. The PostgreSQL file of the same number says what is what.
CREATE TABLE budgets (
    id         TEXT PRIMARY KEY NOT NULL,
    name       TEXT NOT NULL,
    project_id TEXT,
    runner_id  TEXT,
    generation INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    removed_at INTEGER,
    record     TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX budgets_name ON budgets (name) WHERE removed_at IS NULL;

CREATE TABLE budget_periods (
    budget_id  TEXT NOT NULL REFERENCES budgets (id),
    period     TEXT NOT NULL,
    ends_at    INTEGER,
    used       INTEGER NOT NULL,
    reserved   INTEGER NOT NULL CHECK (reserved >= 0),
    reached    TEXT NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (budget_id, period)
) STRICT;
CREATE INDEX budget_periods_end ON budget_periods (ends_at);

CREATE TABLE budget_reservations (
    budget_id   TEXT NOT NULL,
    period      TEXT NOT NULL,
    runner_id   TEXT NOT NULL,
    reserved    INTEGER NOT NULL,
    settled     INTEGER NOT NULL,
    allowed     INTEGER,
    released_at INTEGER,
    PRIMARY KEY (budget_id, period, runner_id)
) STRICT;
CREATE INDEX budget_reservations_open ON budget_reservations (runner_id) WHERE released_at IS NULL;

CREATE TABLE budget_holds (
    runner_id  TEXT PRIMARY KEY NOT NULL,
    node_id    TEXT NOT NULL,
    budget_id  TEXT NOT NULL,
    period     TEXT NOT NULL,
    step       TEXT NOT NULL,
    was_paused INTEGER NOT NULL,
    at         INTEGER NOT NULL
) STRICT;
CREATE INDEX budget_holds_node ON budget_holds (node_id);

CREATE TABLE budget_clocks (
    runner_id TEXT PRIMARY KEY NOT NULL,
    node_id   TEXT NOT NULL,
    counted   INTEGER NOT NULL
) STRICT;
CREATE INDEX budget_clocks_node ON budget_clocks (node_id);
