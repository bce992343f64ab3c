-- Gives pending events their positions under a lease and takes them out of the outbox, in one round
-- trip: what comes after waits for it. Volatile, and so each of its statements sees what has been
-- committed when it begins: those after the first one, which waits for the lease's row, what whoever
-- published before has done.
--
-- By what was published and not by outbox id it is taken out: a row with a smaller id may have
-- appeared since.
CREATE FUNCTION publish_events(
    lease text, its_holder text, its_term bigint, most bigint, above bigint
) RETURNS SETOF events
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    before bigint;
    after bigint;
BEGIN
    PERFORM FROM leases WHERE name = lease AND holder = its_holder AND term = its_term
        FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the term of the lease % is over', lease USING ERRCODE = 'SV001';
    END IF;
    SELECT last INTO before FROM event_positions WHERE name = 'events';
    RETURN QUERY UPDATE events SET position = pending.number + before
        FROM (
            SELECT event_id, row_number() OVER (ORDER BY id) AS number
            FROM (SELECT id, event_id FROM outbox
                WHERE destination = 'bus' AND id > above ORDER BY id LIMIT most) AS first
        ) AS pending
        WHERE events.id = pending.event_id
        RETURNING events.*;
    SELECT max(position) INTO after FROM events WHERE position > before;
    IF after IS NOT NULL THEN
        UPDATE event_positions SET last = after WHERE name = 'events';
        DELETE FROM outbox WHERE destination = 'bus'
            AND event_id IN (SELECT id FROM events WHERE position > before AND position <= after);
    END IF;
END
$$;
