SELECT pg_catalog.set_config('outflow.search_path', pg_catalog.current_setting('search_path'), false), pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);

-- Waiters: a row for each connection that listens for ends, which its process renews. A statement
-- that ends messages reads them before it notifies, because commits that notify go one after the
-- other in all of the server. Unlogged: what loses the rows ends the connections too.
CREATE UNLOGGED TABLE outbox.waiters (
    id         uuid        NOT NULL PRIMARY KEY,
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE outbox.waiters IS 'Outflow: connections that listen on outflow_ended';

-- The name of a message ID in a notification. Any role may listen, and a role that knows an ID may
-- read how its message ended, or drop its waiter. A hash of 48 bits reveals nothing of an ID of 74
-- random bits, without a salt: 2^26 IDs have the same hash, each to be found among 2^74. Two IDs
-- that share a hash cost a waiter one read.
CREATE FUNCTION outbox.notice_of(id uuid) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN left(encode(sha256(uuid_send(id)), 'hex'), 12);

-- Notifies waiters that messages have ended: of up to 600 by their notices, of more by an empty
-- notification (the limit is 8,000 bytes). Each query in here has a snapshot of its own, taken
-- after the ends were written: a waiter that registers later finds their transaction open. A queue
-- of notifications that another listener lets fill up must not keep a message from ending.
-- enable_seqscan: see outbox.hint.
CREATE FUNCTION outbox.notify_waiters(ids uuid[]) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = on AS $$
BEGIN
    IF cardinality(ids) > 0 AND EXISTS (SELECT FROM outbox.waiters AS w WHERE w.expires_at > now())
        AND pg_notification_queue_usage() < 0.5 THEN
        PERFORM pg_notify('outflow_ended', CASE WHEN cardinality(ids) <= 600
            THEN (SELECT string_agg(outbox.notice_of(i), ',') FROM unnest(ids) AS i) ELSE '' END);
    END IF;
END $$;

-- Registers a waiter for a minute, and notifies its connection of that: the proof that
-- notifications arrive there. The notice does not contain the ID that drops the waiter.
CREATE FUNCTION outbox.keep_waiter(waiter uuid) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO outbox.waiters AS w (id, expires_at) VALUES (waiter, now() + interval '1 minute')
        ON CONFLICT (id) DO UPDATE SET expires_at = excluded.expires_at;
    DELETE FROM outbox.waiters AS w
     WHERE w.id IN (SELECT gone.id FROM outbox.waiters AS gone WHERE gone.expires_at <= now() FOR UPDATE SKIP LOCKED);
    PERFORM pg_notify('outflow_ended', 'waiter ' || outbox.notice_of(waiter));
END $$;

CREATE FUNCTION outbox.drop_waiter(waiter uuid) RETURNS void
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ DELETE FROM outbox.waiters AS w WHERE w.id = waiter $$;

-- How messages stand, for a role that knows their IDs, which can't be guessed: a producer without a
-- right on the table reads how its own messages ended. It returns nothing of what was sent.
CREATE FUNCTION outbox.outcomes(ids uuid[])
    RETURNS TABLE (id uuid, state text, generation integer, attempts integer, finished_at timestamptz,
                   broker_message_id text, last_error text, callback_due boolean)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT m.id, m.state, m.generation, m.attempts, m.finished_at, m.broker_message_id, m.last_error,
           m.callback_state IS NOT DISTINCT FROM 'due'
      FROM outbox.messages AS m
     WHERE m.id = ANY (ids)
$$;

-- The same for IDs that an enqueue returned: of a group, how each of its messages stands, and where
-- it goes, without the query of an address. A message that is of no group is its own.
CREATE FUNCTION outbox.group_outcomes(ids uuid[])
    RETURNS TABLE (group_id uuid, id uuid, destination text, state text, generation integer, attempts integer,
                   finished_at timestamptz, broker_message_id text, last_error text, callback_due boolean)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
    AS $$
    SELECT g.asked, g.id, outbox.display_destination(g.destination), g.state, g.generation, g.attempts,
           g.finished_at, g.broker_message_id, g.last_error, g.callback_state IS NOT DISTINCT FROM 'due'
      FROM (SELECT m.group_id AS asked, m.* FROM outbox.messages AS m WHERE m.group_id = ANY (ids) AND m.group_id IS NOT NULL
            UNION ALL
            SELECT m.id, m.* FROM outbox.messages AS m WHERE m.id = ANY (ids)) AS g
$$;

REVOKE ALL ON outbox.waiters FROM PUBLIC;
REVOKE ALL ON FUNCTION outbox.notice_of(uuid), outbox.notify_waiters(uuid[]), outbox.keep_waiter(uuid), outbox.drop_waiter(uuid), outbox.outcomes(uuid[]), outbox.group_outcomes(uuid[]) FROM PUBLIC;

SELECT pg_catalog.set_config('search_path', pg_catalog.current_setting('outflow.search_path'), false);
