-- Conversations: what was said, for search, and the files that it stands in. The PostgreSQL file of the same
-- number makes the same tables and columns, and says what they are for.

CREATE TABLE messages (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    session_id  TEXT NOT NULL REFERENCES sessions (id),
    external_id TEXT NOT NULL,
    role        TEXT NOT NULL,
    at          INTEGER NOT NULL,
    model       TEXT,
    text        TEXT NOT NULL,
    file        TEXT NOT NULL,
    file_offset INTEGER NOT NULL,
    embedded    TEXT
) STRICT;
CREATE UNIQUE INDEX messages_external ON messages (session_id, external_id);
CREATE INDEX messages_page ON messages (session_id, at, id);
CREATE INDEX messages_unembedded ON messages (id) WHERE embedded IS NULL;

-- The folded words of each message, by its id. They come folded, with spaces between them, which is what
-- the ascii tokenizer leaves as it is; the text itself is not kept twice.
CREATE VIRTUAL TABLE _message_words USING fts5 (
    words, content = '', contentless_delete = 1, tokenize = 'ascii'
);

CREATE TABLE embeddings (
    message_id INTEGER PRIMARY KEY NOT NULL REFERENCES messages (id) ON DELETE CASCADE,
    model      TEXT NOT NULL,
    vector     BLOB NOT NULL
) STRICT;
CREATE INDEX embeddings_model ON embeddings (model, message_id);

CREATE TABLE transcripts (
    id          TEXT PRIMARY KEY NOT NULL,
    session_id  TEXT NOT NULL REFERENCES sessions (id),
    node_id     TEXT NOT NULL REFERENCES nodes (id),
    path        TEXT NOT NULL,
    version     INTEGER NOT NULL,
    file        TEXT NOT NULL,
    head        TEXT NOT NULL,
    head_length INTEGER NOT NULL,
    size        INTEGER NOT NULL,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    replaced_at INTEGER
) STRICT;
CREATE UNIQUE INDEX transcripts_version ON transcripts (node_id, path, version);
CREATE INDEX transcripts_session ON transcripts (session_id, path, version);
CREATE INDEX transcripts_age ON transcripts (updated_at, id);

CREATE TABLE blobs (
    store      TEXT NOT NULL,
    digest     TEXT NOT NULL,
    length     INTEGER NOT NULL,
    stored     INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (store, digest)
) STRICT;

CREATE TABLE segments (
    transcript_id TEXT NOT NULL REFERENCES transcripts (id),
    begins        INTEGER NOT NULL,
    length        INTEGER NOT NULL,
    store         TEXT NOT NULL,
    digest        TEXT NOT NULL,
    PRIMARY KEY (transcript_id, begins),
    FOREIGN KEY (store, digest) REFERENCES blobs (store, digest)
) STRICT;
CREATE INDEX segments_blob ON segments (store, digest);
