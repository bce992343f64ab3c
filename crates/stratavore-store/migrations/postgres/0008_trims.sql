-- Which part of the record is in files by now, and no longer here. Only adds; what could never be deleted
-- may be once it is in files.
--
-- note is signed by the key of the log: it names the last position, its hash and the tree up to it.
CREATE TABLE record_trims (
    upto    bigint PRIMARY KEY,
    begins  bigint NOT NULL,
    note    text NOT NULL,
    file    text NOT NULL,
    node_id text COLLATE "C" NOT NULL,
    at      timestamptz NOT NULL
);
CREATE TRIGGER record_trims_unchanged BEFORE UPDATE ON record_trims FOR EACH ROW
    EXECUTE FUNCTION refuse('what was moved into files stays on the record');
CREATE TRIGGER record_trims_kept BEFORE DELETE ON record_trims FOR EACH ROW
    EXECUTE FUNCTION refuse('what was moved into files stays on the record');
CREATE TRIGGER record_trims_whole BEFORE TRUNCATE ON record_trims FOR EACH STATEMENT
    EXECUTE FUNCTION refuse('what was moved into files stays on the record');

CREATE FUNCTION record_trimmed() RETURNS bigint LANGUAGE sql STABLE AS
    'SELECT coalesce(max(upto), 0) FROM record_trims';

CREATE FUNCTION refuse_untrimmed_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.position IS NULL OR OLD.position > record_trimmed() THEN
        RAISE EXCEPTION 'an event is never deleted' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN OLD;
END
$$;
-- The last one that was moved stays: the next one builds on it.
CREATE FUNCTION refuse_untrimmed_seal() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.position >= record_trimmed() THEN
        RAISE EXCEPTION 'a seal is never deleted' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN OLD;
END
$$;
CREATE FUNCTION refuse_untrimmed_checkpoint() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.size >= record_trimmed() THEN
        RAISE EXCEPTION 'a checkpoint is never deleted' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN OLD;
END
$$;
DROP TRIGGER events_kept ON events;
CREATE TRIGGER events_kept BEFORE DELETE ON events FOR EACH ROW EXECUTE FUNCTION refuse_untrimmed_event();
DROP TRIGGER audit_seals_kept ON audit_seals;
CREATE TRIGGER audit_seals_kept BEFORE DELETE ON audit_seals FOR EACH ROW EXECUTE FUNCTION refuse_untrimmed_seal();
DROP TRIGGER audit_checkpoints_kept ON audit_checkpoints;
CREATE TRIGGER audit_checkpoints_kept BEFORE DELETE ON audit_checkpoints FOR EACH ROW
    EXECUTE FUNCTION refuse_untrimmed_checkpoint();

-- The events of a node are numbered on where those in files have ended.
CREATE TABLE trimmed_nodes (
    node_id text COLLATE "C" PRIMARY KEY,
    seq     bigint NOT NULL
);

CREATE INDEX dead_letters_position ON dead_letters (position);

-- Removes of what is in files the next so many positions, and says how many events that were. With the
-- rights of the owner: the role of the daemons deletes nothing of the record by itself. So whoever has that
-- role and says that something was moved gets no further than to what is older than a day, and no checkpoint
-- outside of the database fits what is left.
CREATE FUNCTION record_remove(batch bigint) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    trimmed bigint := record_trimmed();
    upto    bigint;
    removed bigint;
BEGIN
    SELECT least(trimmed, min(position) + batch - 1) INTO upto FROM events WHERE position <= trimmed;
    IF upto IS NULL THEN
        RETURN 0;
    END IF;
    IF EXISTS (SELECT FROM events WHERE position <= upto AND at > clock_timestamp() - interval '1 day') THEN
        RAISE EXCEPTION 'what is younger than a day is not removed from the record'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    DELETE FROM dead_letters WHERE position <= upto AND replayed_at IS NOT NULL;
    DELETE FROM events WHERE position <= upto;
    GET DIAGNOSTICS removed = ROW_COUNT;
    DELETE FROM audit_seals WHERE position <= upto AND position < trimmed;
    DELETE FROM audit_checkpoints WHERE size <= upto AND size < trimmed;
    RETURN removed;
END
$$;
REVOKE ALL ON FUNCTION record_remove(bigint) FROM PUBLIC;
-- Nobody gets it to work on tables of their own.
DO $$ BEGIN
    EXECUTE format('ALTER FUNCTION record_remove(bigint) SET search_path = %I, pg_temp', current_schema());
END $$;
