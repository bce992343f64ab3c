-- Which part of the record is in files by now. The PostgreSQL file of the same number makes the same table,
-- and says what it is for.
CREATE TABLE record_trims (
    upto    INTEGER PRIMARY KEY NOT NULL,
    begins  INTEGER NOT NULL,
    note    TEXT NOT NULL,
    file    TEXT NOT NULL,
    node_id TEXT NOT NULL,
    at      INTEGER NOT NULL
) STRICT;
CREATE TRIGGER record_trims_unchanged BEFORE UPDATE ON record_trims
BEGIN
    SELECT RAISE(ABORT, 'what was moved into files stays on the record');
END;
CREATE TRIGGER record_trims_kept BEFORE DELETE ON record_trims
BEGIN
    SELECT RAISE(ABORT, 'what was moved into files stays on the record');
END;

DROP TRIGGER events_kept;
CREATE TRIGGER events_kept BEFORE DELETE ON events
    WHEN OLD.position IS NULL OR OLD.position > coalesce((SELECT max(upto) FROM record_trims), 0)
BEGIN
    SELECT RAISE(ABORT, 'an event is never deleted');
END;
DROP TRIGGER audit_seals_kept;
CREATE TRIGGER audit_seals_kept BEFORE DELETE ON audit_seals
    WHEN OLD.position >= coalesce((SELECT max(upto) FROM record_trims), 0)
BEGIN
    SELECT RAISE(ABORT, 'a seal is never deleted');
END;
DROP TRIGGER audit_checkpoints_kept;
CREATE TRIGGER audit_checkpoints_kept BEFORE DELETE ON audit_checkpoints
    WHEN OLD.size >= coalesce((SELECT max(upto) FROM record_trims), 0)
BEGIN
    SELECT RAISE(ABORT, 'a checkpoint is never deleted');
END;

CREATE TABLE trimmed_nodes (
    node_id TEXT PRIMARY KEY NOT NULL,
    seq     INTEGER NOT NULL
) STRICT;

CREATE INDEX dead_letters_position ON dead_letters (position);
