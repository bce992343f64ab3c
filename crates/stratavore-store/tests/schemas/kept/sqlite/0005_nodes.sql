-- Nodes of a cluster. The PostgreSQL file of the same number makes the same tables and columns, and
-- says what they are for.

ALTER TABLE nodes ADD COLUMN labels TEXT NOT NULL DEFAULT '{}';
ALTER TABLE nodes ADD COLUMN capacity INTEGER;
ALTER TABLE nodes ADD COLUMN address TEXT;
ALTER TABLE nodes ADD COLUMN scheduling TEXT NOT NULL DEFAULT 'open';
ALTER TABLE nodes ADD COLUMN signs INTEGER NOT NULL DEFAULT 0;
ALTER TABLE nodes ADD COLUMN key_digest TEXT;

CREATE INDEX daemons_node ON daemons (node_id, started_at);

CREATE TABLE clusters (
    name        TEXT PRIMARY KEY NOT NULL CHECK (name = 'cluster'),
    certificate TEXT NOT NULL,
    created_at  INTEGER NOT NULL
) STRICT;

CREATE TABLE join_tokens (
    accessor      TEXT PRIMARY KEY NOT NULL,
    secret_digest TEXT NOT NULL UNIQUE,
    created_by    TEXT NOT NULL,
    created_at    INTEGER NOT NULL,
    expires_at    INTEGER NOT NULL,
    used_at       INTEGER,
    node_id       TEXT,
    key_digest    TEXT,
    revoked_at    INTEGER
) STRICT;
CREATE INDEX join_tokens_expiry ON join_tokens (expires_at);
