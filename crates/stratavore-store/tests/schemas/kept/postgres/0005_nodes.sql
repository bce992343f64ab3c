-- Nodes of a cluster: what they are for, how much they hold, and how they prove who they are.
--
-- Everything added has a default, so that a daemon of the version before goes on as it was.

ALTER TABLE nodes ADD COLUMN labels text NOT NULL DEFAULT '{}';
ALTER TABLE nodes ADD COLUMN capacity bigint;
ALTER TABLE nodes ADD COLUMN address text;
ALTER TABLE nodes ADD COLUMN scheduling text COLLATE "C" NOT NULL DEFAULT 'open';
-- 1: it can sign the certificates of others.
ALTER TABLE nodes ADD COLUMN signs bigint NOT NULL DEFAULT 0;
-- SHA-256 of the public key that it is bound to, as hex; null: it never joined, or was removed.
ALTER TABLE nodes ADD COLUMN key_digest text COLLATE "C";

CREATE INDEX daemons_node ON daemons (node_id, started_at);

-- One row at most: the certificate of the cluster's CA, as PEM.
CREATE TABLE clusters (
    name        text COLLATE "C" PRIMARY KEY CHECK (name = 'cluster'),
    certificate text NOT NULL,
    created_at  timestamptz NOT NULL
);

-- secret_digest is all that is kept of a token's secret. One that was used names the node and the
-- key that it was used for; a second use by another key is a theft, and revokes it.
CREATE TABLE join_tokens (
    accessor      text COLLATE "C" PRIMARY KEY,
    secret_digest text COLLATE "C" NOT NULL UNIQUE,
    created_by    text NOT NULL,
    created_at    timestamptz NOT NULL,
    expires_at    timestamptz NOT NULL,
    used_at       timestamptz,
    node_id       text COLLATE "C",
    key_digest    text COLLATE "C",
    revoked_at    timestamptz
);
CREATE INDEX join_tokens_expiry ON join_tokens (expires_at);
