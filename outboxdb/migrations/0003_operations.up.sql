-- What running an outbox for years needs: how destinations do, who did what to
-- which message, room for what is final, and a table that stays fast.

-- How each destination does, for every process at once. A row is written when a
-- destination fails, and once when a message first reached it.
CREATE TABLE outbox.destinations (
    destination   text        COLLATE "C" NOT NULL PRIMARY KEY,
    delivered_at  timestamptz,
    failures      integer     NOT NULL DEFAULT 0,
    failing_since timestamptz,
    openings      integer     NOT NULL DEFAULT 0,
    open_until    timestamptz,
    probe_id      uuid,
    probe_until   timestamptz,
    recovered_at  timestamptz,
    last_error    text,
    CONSTRAINT destinations_counts  CHECK (failures >= 0 AND openings >= 0),
    CONSTRAINT destinations_open    CHECK ((open_until IS NULL) = (openings = 0)),
    CONSTRAINT destinations_failing CHECK (open_until IS NULL OR failing_since IS NOT NULL)
) WITH (fillfactor = 50);

-- The few that need somebody's attention: a scanner asks for them all the time.
CREATE INDEX destinations_troubled ON outbox.destinations (destination)
    WHERE open_until IS NOT NULL OR recovered_at IS NOT NULL;

COMMENT ON TABLE outbox.destinations IS 'Outflow: how each destination does';
COMMENT ON COLUMN outbox.destinations.delivered_at IS 'a message reached it: it exists, and is missed where it does not';
COMMENT ON COLUMN outbox.destinations.failures IS 'failures since the last success';
COMMENT ON COLUMN outbox.destinations.open_until IS 'the breaker is open: nothing is sent until then, and after it one probe at a time';
COMMENT ON COLUMN outbox.destinations.openings IS 'openings of the breaker since the last success';
COMMENT ON COLUMN outbox.destinations.probe_id IS 'the one message that may be sent while the breaker is open';
COMMENT ON COLUMN outbox.destinations.recovered_at IS 'the breaker closed; its retrying runs are still to be told';

-- Runs off the fast path, by destination: counted for the cap, told of a recovery.
CREATE INDEX messages_retrying ON outbox.messages (destination, id) WHERE retrying;

-- Messages whose process died again and again.
CREATE INDEX messages_suspect ON outbox.messages (id) WHERE state = 'pending' AND claims >= 5;

-- Final rows by age: what a purge takes, and what "outflow list" shows.
CREATE INDEX messages_finished ON outbox.messages (state, finished_at) WHERE finished_at IS NOT NULL;

-- The callback that tells a producer how its message ended. callback_due_at is
-- when a scanner looks after it: whoever has it in hand keeps that ahead.
ALTER TABLE outbox.messages
    ADD COLUMN callback_attempts integer NOT NULL DEFAULT 0,
    ADD COLUMN callback_error text,
    ADD COLUMN callback_due_at timestamptz,
    ADD CONSTRAINT messages_callback_attempts CHECK (callback_attempts >= 0),
    ADD CONSTRAINT messages_callback_due CHECK (callback_state IS DISTINCT FROM 'due' OR (callback_due_at IS NOT NULL AND finished_at IS NOT NULL));
COMMENT ON COLUMN outbox.messages.callback_due_at IS 'a scanner starts the callback then, unless its run has moved it';

-- Callbacks to look after, the longest due first.
CREATE INDEX messages_callbacks ON outbox.messages (callback_due_at) WHERE callback_state = 'due';

-- Every message leaves two dead versions of its row (claim and end) and later a
-- hole. The defaults wait for a fifth of the table; an outbox of millions of
-- delivered rows would carry as many dead ones through its claim index. So:
-- after some thousand, and at ten times the default speed. Analyze as often,
-- because the share of pending rows changes within seconds.
ALTER TABLE outbox.messages SET (
    autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_insert_threshold = 20000, autovacuum_vacuum_insert_scale_factor = 0.02,
    autovacuum_analyze_threshold = 5000, autovacuum_analyze_scale_factor = 0.02,
    autovacuum_vacuum_cost_limit = 2000,
    toast.autovacuum_vacuum_threshold = 5000, toast.autovacuum_vacuum_scale_factor = 0.01,
    toast.autovacuum_vacuum_cost_limit = 2000
);

-- Who did what, when and why. A row outlives its message.
CREATE TABLE outbox.audit (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    act         text        NOT NULL,
    message_id  uuid,
    destination text,
    generation  integer,
    who         text        NOT NULL,
    why         text        NOT NULL DEFAULT '',
    detail      jsonb       NOT NULL DEFAULT '{}',
    CONSTRAINT audit_act CHECK (act <> ''),
    CONSTRAINT audit_who CHECK (who <> '')
);
CREATE INDEX audit_message ON outbox.audit (message_id, id) WHERE message_id IS NOT NULL;
COMMENT ON TABLE outbox.audit IS 'Outflow: what operators did';

-- Where a purge moves final rows, if it is told to. Its columns are those of
-- outbox.messages and when the row was moved; nothing of Outflow reads it. It is
-- a log: a message that comes back and ends again is there twice.
CREATE TABLE outbox.history (
    LIKE outbox.messages,
    moved_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (id, moved_at)
);
CREATE INDEX history_finished ON outbox.history (finished_at);
COMMENT ON TABLE outbox.history IS 'Outflow: final messages that were purged from outbox.messages';

REVOKE ALL ON outbox.destinations, outbox.audit, outbox.history FROM PUBLIC;

-- Who waits for ends: a row for each listening connection, which its process
-- renews. A statement that ends messages looks here before it notifies, because
-- commits that notify go one after the other in all of the server. Unlogged: the
-- connections are gone with whatever would lose the rows.
CREATE UNLOGGED TABLE outbox.waiters (
    id         uuid        NOT NULL PRIMARY KEY,
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE outbox.waiters IS 'Outflow: who listens on outflow_ended';

-- Tells whoever waits that messages have ended: by their IDs, up to a hundred,
-- beyond that by nothing but the notification (its limit is 8,000 bytes). Each
-- query in here has a snapshot of its own, taken after the ends were written: who
-- registers later than that finds their transaction open. A queue of notifications
-- that somebody else lets fill up must not keep a message from ending.
CREATE FUNCTION outbox.tell_waiters(ids uuid[]) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF cardinality(ids) > 0 AND EXISTS (SELECT FROM outbox.waiters AS w WHERE w.expires_at > now())
        AND pg_notification_queue_usage() < 0.5 THEN
        PERFORM pg_notify('outflow_ended', CASE WHEN cardinality(ids) <= 100 THEN array_to_string(ids, ',') ELSE '' END);
    END IF;
END $$;

-- Registers a waiter, for a minute, and has its connection hear that: the proof
-- that notifications reach it.
CREATE FUNCTION outbox.keep_waiter(waiter uuid) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO outbox.waiters AS w (id, expires_at) VALUES (waiter, now() + interval '1 minute')
        ON CONFLICT (id) DO UPDATE SET expires_at = excluded.expires_at;
    DELETE FROM outbox.waiters AS w
     WHERE w.id IN (SELECT gone.id FROM outbox.waiters AS gone WHERE gone.expires_at <= now() FOR UPDATE SKIP LOCKED);
    PERFORM pg_notify('outflow_ended', 'waiter ' || waiter);
END $$;

CREATE FUNCTION outbox.drop_waiter(waiter uuid) RETURNS void
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ DELETE FROM outbox.waiters AS w WHERE w.id = waiter $$;

-- How messages stand, for whoever knows their IDs, which nobody guesses: a producer
-- without a right on the table sees how its own ended. Nothing that was sent is in it.
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

REVOKE ALL ON outbox.waiters FROM PUBLIC;
REVOKE ALL ON FUNCTION outbox.tell_waiters(uuid[]), outbox.keep_waiter(uuid), outbox.drop_waiter(uuid), outbox.outcomes(uuid[]) FROM PUBLIC;
