-- The record: where each event came from and what was decided, and the chain that seals it.
-- Only adds: a program of the schema before this one still writes its events.
--
-- mac names a key that only the daemon that wrote the event has, and is over all of it but its position.
ALTER TABLE events
    ADD COLUMN origin   text,
    ADD COLUMN decision text COLLATE "C",
    ADD COLUMN reason   text,
    ADD COLUMN mac      text COLLATE "C";

DROP TRIGGER events_immutable ON events;
CREATE TRIGGER events_immutable BEFORE UPDATE ON events FOR EACH ROW
    WHEN (OLD.position IS NOT NULL OR NEW.position IS NULL
        OR (NEW.id, NEW.entity, NEW.entity_id, NEW.name, NEW.project_id, NEW.seq, NEW.kind, NEW.at, NEW.caused_by,
            NEW.data, NEW.origin, NEW.decision, NEW.reason, NEW.mac)
            IS DISTINCT FROM
           (OLD.id, OLD.entity, OLD.entity_id, OLD.name, OLD.project_id, OLD.seq, OLD.kind, OLD.at, OLD.caused_by,
            OLD.data, OLD.origin, OLD.decision, OLD.reason, OLD.mac))
    EXECUTE FUNCTION refuse('an event never changes; its position is given once');
CREATE TRIGGER events_whole BEFORE TRUNCATE ON events FOR EACH STATEMENT
    EXECUTE FUNCTION refuse('an event is never deleted');

-- The chain: one hash for each published event, in the order of their positions.
CREATE TABLE audit_seals (
    position bigint PRIMARY KEY,
    hash     bytea NOT NULL
);
CREATE TRIGGER audit_seals_unchanged BEFORE UPDATE ON audit_seals FOR EACH ROW
    EXECUTE FUNCTION refuse('a seal never changes');
CREATE TRIGGER audit_seals_kept BEFORE DELETE ON audit_seals FOR EACH ROW
    EXECUTE FUNCTION refuse('a seal is never deleted');
CREATE TRIGGER audit_seals_whole BEFORE TRUNCATE ON audit_seals FOR EACH STATEMENT
    EXECUTE FUNCTION refuse('a seal never changes');

-- size is the position of the last event that it covers; note is what was signed, with its
-- signature; frontier is what the tree is continued from.
CREATE TABLE audit_checkpoints (
    size     bigint PRIMARY KEY,
    note     text NOT NULL,
    frontier bytea NOT NULL,
    at       timestamptz NOT NULL
);
CREATE TRIGGER audit_checkpoints_unchanged BEFORE UPDATE ON audit_checkpoints FOR EACH ROW
    EXECUTE FUNCTION refuse('a checkpoint never changes');
CREATE TRIGGER audit_checkpoints_kept BEFORE DELETE ON audit_checkpoints FOR EACH ROW
    EXECUTE FUNCTION refuse('a checkpoint is never deleted');
CREATE TRIGGER audit_checkpoints_whole BEFORE TRUNCATE ON audit_checkpoints FOR EACH STATEMENT
    EXECUTE FUNCTION refuse('a checkpoint never changes');

-- Public keys only. state: active, retired, waiting.
CREATE TABLE audit_keys (
    id         text COLLATE "C" PRIMARY KEY,
    origin     text NOT NULL,
    public     text NOT NULL,
    state      text COLLATE "C" NOT NULL,
    node_id    text COLLATE "C" NOT NULL,
    since_size bigint NOT NULL,
    change     text,
    created_at timestamptz NOT NULL
);
