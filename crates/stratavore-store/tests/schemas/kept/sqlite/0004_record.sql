-- The record: where each event came from and what was decided, and the chain that seals it.
-- Only adds: a program of the schema before this one still writes its events.
--
-- mac names a key that only the daemon that wrote the event has, and is over all of it but its position.
ALTER TABLE events ADD COLUMN origin TEXT;
ALTER TABLE events ADD COLUMN decision TEXT;
ALTER TABLE events ADD COLUMN reason TEXT;
ALTER TABLE events ADD COLUMN mac TEXT;

DROP TRIGGER events_immutable;
CREATE TRIGGER events_immutable BEFORE UPDATE ON events
    WHEN OLD.position IS NOT NULL OR NEW.position IS NULL
        OR (NEW.id, NEW.entity, NEW.entity_id, NEW.name, NEW.project_id, NEW.seq, NEW.kind, NEW.at, NEW.caused_by,
            NEW.data, NEW.origin, NEW.decision, NEW.reason, NEW.mac)
            IS NOT
           (OLD.id, OLD.entity, OLD.entity_id, OLD.name, OLD.project_id, OLD.seq, OLD.kind, OLD.at, OLD.caused_by,
            OLD.data, OLD.origin, OLD.decision, OLD.reason, OLD.mac)
BEGIN
    SELECT RAISE(ABORT, 'an event never changes; its position is given once');
END;

-- The chain: one hash for each published event, in the order of their positions.
CREATE TABLE audit_seals (
    position INTEGER NOT NULL PRIMARY KEY,
    hash     BLOB NOT NULL
) STRICT;
CREATE TRIGGER audit_seals_unchanged BEFORE UPDATE ON audit_seals
BEGIN
    SELECT RAISE(ABORT, 'a seal never changes');
END;
CREATE TRIGGER audit_seals_kept BEFORE DELETE ON audit_seals
BEGIN
    SELECT RAISE(ABORT, 'a seal is never deleted');
END;

-- size is the position of the last event that it covers; note is what was signed, with its
-- signature; frontier is what the tree is continued from.
CREATE TABLE audit_checkpoints (
    size     INTEGER NOT NULL PRIMARY KEY,
    note     TEXT NOT NULL,
    frontier BLOB NOT NULL,
    at       INTEGER NOT NULL
) STRICT;
CREATE TRIGGER audit_checkpoints_unchanged BEFORE UPDATE ON audit_checkpoints
BEGIN
    SELECT RAISE(ABORT, 'a checkpoint never changes');
END;
CREATE TRIGGER audit_checkpoints_kept BEFORE DELETE ON audit_checkpoints
BEGIN
    SELECT RAISE(ABORT, 'a checkpoint is never deleted');
END;

-- Public keys only. state: active, retired, waiting.
CREATE TABLE audit_keys (
    id         TEXT NOT NULL PRIMARY KEY,
    origin     TEXT NOT NULL,
    public     TEXT NOT NULL,
    state      TEXT NOT NULL,
    node_id    TEXT NOT NULL,
    since_size INTEGER NOT NULL,
    change     TEXT,
    created_at INTEGER NOT NULL
) STRICT;
