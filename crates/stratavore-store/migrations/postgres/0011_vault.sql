-- Conversations: what was said, for search, and the files that it stands in. The SQLite file of the same
-- number makes the same tables and columns. What begins with an underscore is one database's own.

-- text is bounded; all of it is in the transcript. embedded is the model whose vector of it is kept; null:
-- none is yet. _words are the folded words of the text with their places, put together by the program, so
-- that both databases find the same.
CREATE TABLE messages (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    session_id  text COLLATE "C" NOT NULL REFERENCES sessions (id),
    external_id text COLLATE "C" NOT NULL,
    role        text COLLATE "C" NOT NULL,
    at          timestamptz NOT NULL,
    model       text,
    text        text NOT NULL,
    file        text NOT NULL,
    file_offset bigint NOT NULL,
    embedded    text COLLATE "C",
    _words      tsvector NOT NULL
);
CREATE UNIQUE INDEX messages_external ON messages (session_id, external_id);
CREATE INDEX messages_page ON messages (session_id, at, id);
CREATE INDEX messages_unembedded ON messages (id) WHERE embedded IS NULL;
CREATE INDEX _messages_words ON messages USING gin (_words) WITH (fastupdate = off);

-- The meaning of a message as numbers: 32-bit floats, little-endian, of length 1.
CREATE TABLE embeddings (
    message_id bigint PRIMARY KEY REFERENCES messages (id) ON DELETE CASCADE,
    model      text COLLATE "C" NOT NULL,
    vector     bytea NOT NULL
);
CREATE INDEX embeddings_model ON embeddings (model, message_id);

-- One version of a file. size is how much of it is here; who adds to it says what it was before.
CREATE TABLE transcripts (
    id          text COLLATE "C" PRIMARY KEY,
    session_id  text COLLATE "C" NOT NULL REFERENCES sessions (id),
    node_id     text COLLATE "C" NOT NULL REFERENCES nodes (id),
    path        text COLLATE "C" NOT NULL,
    version     bigint NOT NULL,
    file        text NOT NULL,
    head        text COLLATE "C" NOT NULL,
    head_length bigint NOT NULL,
    size        bigint NOT NULL,
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL,
    replaced_at timestamptz
);
CREATE UNIQUE INDEX transcripts_version ON transcripts (node_id, path, version);
CREATE INDEX transcripts_session ON transcripts (session_id, path, version);
CREATE INDEX transcripts_age ON transcripts (updated_at, id);

-- What is in the blob store of this name, by its SHA-256. stored is what it takes there.
CREATE TABLE blobs (
    store      text COLLATE "C" NOT NULL,
    digest     text COLLATE "C" NOT NULL,
    length     bigint NOT NULL,
    stored     bigint NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (store, digest)
);

CREATE TABLE segments (
    transcript_id text COLLATE "C" NOT NULL REFERENCES transcripts (id),
    begins        bigint NOT NULL,
    length        bigint NOT NULL,
    store         text COLLATE "C" NOT NULL,
    digest        text COLLATE "C" NOT NULL,
    PRIMARY KEY (transcript_id, begins),
    FOREIGN KEY (store, digest) REFERENCES blobs (store, digest)
);
CREATE INDEX segments_blob ON segments (store, digest);
