SELECT pg_catalog.set_config('outflow.search_path', pg_catalog.current_setting('search_path'), false), pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);

-- One row per message. Columns of a fixed width that are never NULL come first: Postgres knows where in
-- the row they are. An update of a page's rows costs 7 % less CPU so.

CREATE TABLE outbox.messages (
    id                uuid        PRIMARY KEY,
    seq               bigint      GENERATED ALWAYS AS IDENTITY (CACHE 1),
    enqueued_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    due_at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    available_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    generation        integer     NOT NULL DEFAULT 1,
    claims            integer     NOT NULL DEFAULT 0,
    attempts          integer     NOT NULL DEFAULT 0,
    callback_attempts integer     NOT NULL DEFAULT 0,
    retrying          boolean     NOT NULL DEFAULT false,
    parked            boolean     NOT NULL DEFAULT false,
    head              boolean     NOT NULL DEFAULT false,
    follower          boolean     NOT NULL DEFAULT false,
    started           boolean     NOT NULL DEFAULT false,
    streamed          boolean     NOT NULL DEFAULT false,
    cancel_requested  boolean     NOT NULL DEFAULT false,
    callback_payload  boolean     NOT NULL DEFAULT false,
    state             text        NOT NULL DEFAULT 'pending',
    destination       text        COLLATE "C" NOT NULL,
    type              text        NOT NULL,
    content_type      text        NOT NULL DEFAULT 'application/json',
    headers           jsonb       NOT NULL DEFAULT '{}',
    payload           bytea       NOT NULL,
    ordering_key      text        COLLATE "C",
    group_id          uuid,
    group_place       smallint,
    callback          text,
    callback_state    text,
    callback_error    text,
    callback_due_at   timestamptz,
    expires_at        timestamptz,
    finished_at       timestamptz,
    dismissed_at      timestamptz,
    broker_message_id text,
    last_error        text,

    CONSTRAINT messages_id           CHECK (id <> '00000000-0000-0000-0000-000000000000'),
    -- Every update checks these again. So the usual value is seen by little work: most destinations
    -- without the function, a type that has no dot where "outflow." has it without a second regexp.
    CONSTRAINT messages_destination  CHECK ((length(destination) <= 86 AND destination ~ '^s[qn]s://[A-Za-z0-9_-]+$') OR outbox.is_destination(destination)),
    CONSTRAINT messages_type         CHECK (length(type) <= 200 AND type ~ '^[A-Za-z0-9][A-Za-z0-9._:/-]*$' AND (strpos(type, '.') <> 8 OR type !~* '^outflow[.]')),
    CONSTRAINT messages_payload      CHECK (octet_length(payload) BETWEEN 1 AND 16777216),
    CONSTRAINT messages_content_type CHECK (content_type = 'application/json' OR (length(content_type) BETWEEN 1 AND 255 AND content_type !~ '[^ -~]' AND content_type = btrim(content_type))),
    -- The names and types. outbox.enqueue checks the numbers and lengths too, which cost more than
    -- an update may.
    CONSTRAINT messages_headers      CHECK (headers = '{}' OR (jsonb_typeof(headers) = 'object' AND NOT headers @?
        '$.keyvalue() ? (!(@.key like_regex "^[A-Za-z0-9_-]+([.][A-Za-z0-9_-]+)*$") || @.key like_regex "^(outflow|aws[.]|amazon[.]|content-type$)" flag "i" || @.value.type() <> "string")')),
    CONSTRAINT messages_ordering_key CHECK (length(ordering_key) <= 128 AND ordering_key ~ '^[!-~]+$'),
    -- A head is pending, or dead and blocks its key. A follower is parked until a time that never
    -- comes: no statement that looks for due rows needs to know of it.
    CONSTRAINT messages_head
        CHECK (NOT head OR (ordering_key IS NOT NULL AND NOT follower AND state IN ('pending', 'dead'))),
    CONSTRAINT messages_follower
        CHECK (NOT follower OR (ordering_key IS NOT NULL AND state = 'pending' AND parked AND available_at = '9999-12-31Z')),
    CONSTRAINT messages_group_place  CHECK ((group_id IS NULL) = (group_place IS NULL)),
    CONSTRAINT messages_callback     CHECK (callback IS NULL OR (outbox.is_destination(callback) AND callback !~ '^temporal://.*[?&]signal=')),
    CONSTRAINT messages_callback_payload CHECK (NOT callback_payload OR callback IS NOT NULL),
    CONSTRAINT messages_callback_state
        CHECK (callback_state IS NULL OR (callback_state IN ('due', 'sent', 'failed') AND callback IS NOT NULL)),
    CONSTRAINT messages_callback_attempts CHECK (callback_attempts >= 0),
    CONSTRAINT messages_callback_due
        CHECK (callback_state IS DISTINCT FROM 'due' OR (callback_due_at IS NOT NULL AND finished_at IS NOT NULL)),
    CONSTRAINT messages_state        CHECK (state IN ('pending', 'delivered', 'dead', 'expired', 'cancelled')),
    CONSTRAINT messages_finished_at  CHECK ((state = 'pending') = (finished_at IS NULL)),
    CONSTRAINT messages_dismissed_at CHECK (dismissed_at IS NULL OR state = 'dead'),
    CONSTRAINT messages_retrying     CHECK (NOT retrying OR state = 'pending'),
    CONSTRAINT messages_generation   CHECK (generation >= 1),
    CONSTRAINT messages_counts       CHECK (claims >= 0 AND attempts >= 0),
    CONSTRAINT messages_due_at       CHECK (due_at >= '2000-01-01Z' AND due_at < '10000-01-01Z' AND isfinite(available_at)),
    CONSTRAINT messages_expires_at   CHECK (expires_at > due_at AND expires_at < '10000-01-01Z')
);

-- Rows that may be claimed. It has no row that waits for its time: a hundred thousand delayed
-- messages cost a claim nothing. Statements say "NOT parked" literally: each of these two indexes
-- has a part of the pending rows.
CREATE INDEX messages_claim ON outbox.messages (destination, available_at) WHERE state = 'pending' AND NOT parked;

-- Leased, delayed and put-back rows, by the second in which a scanner unparks them, and in each by
-- destination: however many messages of one become due together, the others are found.
CREATE INDEX messages_parked ON outbox.messages (date_bin('1 second'::interval, available_at, '2000-01-01Z'::timestamptz), destination, available_at)
    WHERE state = 'pending' AND parked;

-- Messages off the fast path, by destination: counted for the cap, signalled after a recovery.
CREATE INDEX messages_retrying ON outbox.messages (destination, id) WHERE retrying;

-- Quarantined messages: their process crashed again and again.
CREATE INDEX messages_quarantined ON outbox.messages (id) WHERE state = 'pending' AND claims >= 5;

-- Final rows by age, for a purge and for "outflow list".
CREATE INDEX messages_finished ON outbox.messages (state, finished_at) WHERE finished_at IS NOT NULL;

-- Dismissed messages by age, for a purge.
CREATE INDEX messages_dismissed ON outbox.messages (dismissed_at) WHERE dismissed_at IS NOT NULL;

-- The messages of one enqueue by route. Unique, because two calls for one group may see different
-- routes: then the IDs of their messages differ, and their places don't.
CREATE UNIQUE INDEX messages_group ON outbox.messages (group_id, group_place) WHERE group_id IS NOT NULL;

-- The one message of a key that may be claimed, or is dead and blocks the others.
CREATE UNIQUE INDEX messages_head ON outbox.messages (destination, ordering_key) WHERE head;

-- Those that wait behind it, in their order.
CREATE INDEX messages_followers ON outbox.messages (destination, ordering_key, seq) WHERE follower;

-- Dead heads, which block their keys.
CREATE INDEX messages_blocking ON outbox.messages (destination, ordering_key) WHERE head AND state = 'dead';

-- Due callbacks, the longest due first.
CREATE INDEX messages_callbacks ON outbox.messages (callback_due_at) WHERE callback_state = 'due';

-- Every message leaves two dead versions of its row (claim and end) and later a hole. The defaults
-- wait for a fifth of the table: an outbox of millions of delivered rows would carry as many dead
-- ones through its claim index. So vacuum after some thousand, at ten times the default speed.
-- Analyze as often, because the share of pending rows changes within seconds.
ALTER TABLE outbox.messages SET (
    autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_insert_threshold = 20000, autovacuum_vacuum_insert_scale_factor = 0.02,
    autovacuum_analyze_threshold = 5000, autovacuum_analyze_scale_factor = 0.02,
    autovacuum_vacuum_cost_limit = 2000,
    toast.autovacuum_vacuum_threshold = 5000, toast.autovacuum_vacuum_scale_factor = 0.01,
    toast.autovacuum_vacuum_cost_limit = 2000
);

COMMENT ON TABLE outbox.messages IS 'Outflow: one row per message, written by outbox.enqueue in the producer''s transaction';
COMMENT ON COLUMN outbox.messages.due_at IS 'when the delivery is asked for; age and latency count from here';
COMMENT ON COLUMN outbox.messages.available_at IS 'when the row may next be claimed; in the future while a lease is held';
COMMENT ON COLUMN outbox.messages.generation IS 'rises when an operator starts the message again; guards every write of a run';
COMMENT ON COLUMN outbox.messages.claims IS 'claims after which the process crashed, as far as the table knows; from 5 on the message is quarantined';
COMMENT ON COLUMN outbox.messages.group_id IS 'the ID that an enqueue by route returned for all of its messages';
COMMENT ON COLUMN outbox.messages.group_place IS 'the place of the message in its group, from 1';
COMMENT ON COLUMN outbox.messages.callback_payload IS 'the callback carries the payload';
COMMENT ON COLUMN outbox.messages.callback_due_at IS 'a scanner starts the callback then, unless its run has moved this time';
COMMENT ON COLUMN outbox.messages.parked IS 'available_at was in the future when it was written; a scanner clears this when that time has come';
COMMENT ON COLUMN outbox.messages.head IS 'the first message of its ordering key that has not ended, or one that ended dead and blocks its key';
COMMENT ON COLUMN outbox.messages.follower IS 'it waits for the head of its ordering key; available_at is then the end of 9999';
COMMENT ON COLUMN outbox.messages.started IS 'claimed since the enqueue or an operator''s last start: a run may exist';
COMMENT ON COLUMN outbox.messages.streamed IS 'a stream claimed it last, as one row of a page';
COMMENT ON COLUMN outbox.messages.dismissed_at IS 'an operator dismissed the dead message: doctor and status no longer count it';
COMMENT ON COLUMN outbox.messages.retrying IS 'its run has left the fast path';

-- Ordering keys. A producer locks its keys until it commits: so the seq of a key's messages has the
-- order of their commits. "touched" is a real write, which makes a producer with an older snapshot
-- (REPEATABLE READ, SERIALIZABLE) fail and repeat its transaction.
CREATE TABLE outbox.keys (
    destination  text        COLLATE "C" NOT NULL,
    ordering_key text        COLLATE "C" NOT NULL,
    touched      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (destination, ordering_key)
) WITH (fillfactor = 50);
COMMENT ON TABLE outbox.keys IS 'Outflow: ordering keys, which producers lock until they commit';

-- Keys without a head that a scanner has to look at, because somebody had locked the key or its next
-- message.
CREATE TABLE outbox.deferred_releases (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    destination  text   COLLATE "C" NOT NULL,
    ordering_key text   COLLATE "C" NOT NULL
);
CREATE INDEX deferred_releases_key ON outbox.deferred_releases (destination, ordering_key);
COMMENT ON TABLE outbox.deferred_releases IS 'Outflow: ordering keys whose next message is still to be released';

REVOKE ALL ON outbox.messages, outbox.keys, outbox.deferred_releases FROM PUBLIC;

-- In these functions each query has a snapshot of its own, in READ COMMITTED. Whoever looks for the
-- next message with the snapshot of the statement that ended the one before would miss what was
-- committed meanwhile. enable_seqscan keeps plans on their indexes that were made while the tables
-- were empty.

-- Locks the keys of the messages that a call enqueues, in one order, and waits for their producers.
-- A message without a key has NULL. The result says of each message whether it is a follower:
-- another of its key comes before it in the call, or was written before. A key that this call
-- inserts has no message: a purge deletes no other.
CREATE FUNCTION outbox.take_keys(destinations text[], ordering_keys text[]) RETURNS boolean[]
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    old_destinations text[];
    old_keys         text[];
BEGIN
    WITH taken AS (
        INSERT INTO outbox.keys AS k (destination, ordering_key)
        SELECT DISTINCT g.destination COLLATE "C", g.ordering_key COLLATE "C"
          FROM unnest(destinations, ordering_keys) AS g (destination, ordering_key)
         WHERE g.ordering_key IS NOT NULL
         ORDER BY 1, 2
        ON CONFLICT ON CONSTRAINT keys_pkey DO UPDATE SET touched = clock_timestamp()
        RETURNING k.destination, k.ordering_key, k.xmax = 0 AS fresh)
    SELECT array_agg(t.destination), array_agg(t.ordering_key) INTO old_destinations, old_keys
      FROM taken AS t WHERE NOT t.fresh;
    RETURN ARRAY(
        SELECT g.ordering_key IS NOT NULL
               AND (row_number() OVER (PARTITION BY g.destination, g.ordering_key ORDER BY g.place) > 1
                    OR b.busy IS NOT NULL)
          FROM unnest(destinations, ordering_keys) WITH ORDINALITY AS g (destination, ordering_key, place)
          LEFT JOIN (SELECT o.destination, o.ordering_key, true AS busy
                       FROM unnest(old_destinations, old_keys) AS o (destination, ordering_key)
                      -- No EXISTS: of few heads the planner would make a hash of all of them.
                      WHERE (SELECT true FROM outbox.messages AS m WHERE m.head
                                AND m.destination = o.destination AND m.ordering_key = o.ordering_key LIMIT 1)
                         OR (SELECT true FROM outbox.messages AS m WHERE m.follower
                                AND m.destination = o.destination AND m.ordering_key = o.ordering_key LIMIT 1)) AS b
            ON b.destination = g.destination AND b.ordering_key = g.ordering_key
         ORDER BY g.place);
END $$;

-- Starters that wait for notifications of new messages (OUTFLOW_TRIGGER=listen or wal): a row for each
-- connection that listens on a channel of its own, which its process renews. Unlogged: what loses the
-- rows ends the connections too.
CREATE UNLOGGED TABLE outbox.listeners (
    id           uuid        NOT NULL PRIMARY KEY,
    expires_at   timestamptz NOT NULL,
    idle         boolean     NOT NULL DEFAULT false,
    by_producers boolean     NOT NULL,
    reads_until  timestamptz
) WITH (fillfactor = 50);
COMMENT ON TABLE outbox.listeners IS 'Outflow: connections of starters that listen for new messages';
COMMENT ON COLUMN outbox.listeners.idle IS 'the starter has room for messages, and waits for one';
COMMENT ON COLUMN outbox.listeners.by_producers IS 'producers'' commits tell it; otherwise the starter that reads the log does';
COMMENT ON COLUMN outbox.listeners.reads_until IS 'it reads the log for all starters, and has proved it up to then';

-- The channel of a connection that listens for new messages.
CREATE FUNCTION outbox.due_channel(listener uuid) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN 'outflow_due_' || left(encode(sha256(uuid_send(listener)), 'hex'), 16);

-- Tells one idle starter, chosen at random, to look for messages: a hint that may be lost. passed says
-- how many starters had no room and passed the hint on, the last of them full_starter. A hint from a producer's own transaction
-- (by_producer) is for starters that ask for these. Commits that notify go one after the other in all
-- of the server, so nothing is notified where no starter is idle. A queue of notifications that
-- another listener lets fill up must not keep a transaction from its commit.
-- It reads all listeners, which are few. Some callers have enable_seqscan off: Postgres would take that for
-- dear work, and jit would compile it each time.
CREATE FUNCTION outbox.hint(passed integer DEFAULT 0, by_producer boolean DEFAULT false, full_starter uuid DEFAULT NULL)
    RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = on AS $$
DECLARE
    chosen uuid := (SELECT l.id FROM outbox.listeners AS l
                     WHERE l.idle AND l.expires_at > now() AND (l.by_producers OR NOT by_producer)
                       AND l.id IS DISTINCT FROM full_starter
                     ORDER BY random() LIMIT 1);
BEGIN
    IF chosen IS NOT NULL AND pg_notification_queue_usage() < 0.5 THEN
        PERFORM pg_notify(outbox.due_channel(chosen), passed::text);
    END IF;
END $$;

-- Makes the next follower of a key without a head its head. The result is 'promoted', 'none' where
-- there is no follower, 'expired' where the next one has, or 'locked' where another session has locked
-- it: the one behind it must not go first. The row is locked by its ID alone: "follower" would offer
-- the planner the followers' index, which it would read whole where its statistics are from a table
-- without any.
CREATE FUNCTION outbox.promote_next(of_destination text, of_key text) RETURNS text
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    next  uuid;
    over  boolean;
    waits boolean;
BEGIN
    SELECT m.id, m.expires_at <= clock_timestamp() INTO next, over FROM outbox.messages AS m
     WHERE m.follower AND m.destination = of_destination AND m.ordering_key = of_key
     ORDER BY m.seq LIMIT 1;
    IF next IS NULL THEN
        RETURN 'none';
    ELSIF over THEN
        RETURN 'expired';
    END IF;
    SELECT m.follower INTO waits FROM outbox.messages AS m WHERE m.id = next FOR NO KEY UPDATE SKIP LOCKED;
    IF waits IS NOT TRUE THEN
        RETURN 'locked';
    END IF;
    UPDATE outbox.messages AS m
       SET follower = false, head = true, parked = m.due_at > clock_timestamp(),
           available_at = greatest(m.due_at, clock_timestamp())
     WHERE m.id = next;
    RETURN 'promoted';
END $$;

-- Releases the next message of a key that may have no head. The result is that of promote_next, or
-- 'none' where there is a head. It waits for nobody: where a producer has locked the key, the result is
-- 'locked'. The release of a locked one, and the end of an expired one, are deferred to a scanner.
CREATE FUNCTION outbox.release(of_destination text, of_key text) RETURNS text
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    done text := 'locked';
BEGIN
    PERFORM FROM outbox.keys AS k
      WHERE k.destination = of_destination AND k.ordering_key = of_key FOR UPDATE SKIP LOCKED;
    IF FOUND THEN
        UPDATE outbox.keys AS k SET touched = clock_timestamp()
         WHERE k.destination = of_destination AND k.ordering_key = of_key;
        IF EXISTS (SELECT FROM outbox.messages AS m
                    WHERE m.head AND m.destination = of_destination AND m.ordering_key = of_key) THEN
            RETURN 'none';
        END IF;
        done := outbox.promote_next(of_destination, of_key);
    END IF;
    IF done IN ('locked', 'expired') THEN
        INSERT INTO outbox.deferred_releases (destination, ordering_key) VALUES (of_destination, of_key);
        PERFORM outbox.hint();
    END IF;
    RETURN done;
END $$;

-- Releases the next messages of the keys whose heads the calling statement has just ended, and
-- returns how many it released. Nobody else can: they see the heads until this transaction commits.
--   - Where a follower is seen it needs no lock on the key: what a producer has not committed comes
--     behind it.
--   - Where none is seen, a producer may be about to commit one: release looks again under the
--     key's lock.
CREATE FUNCTION outbox.promote(heads uuid[]) RETURNS integer
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    ended    record;
    done     text;
    promoted integer := 0;
BEGIN
    IF cardinality(heads) = 0 THEN
        RETURN 0;
    END IF;
    FOR ended IN SELECT m.destination, m.ordering_key FROM outbox.messages AS m WHERE m.id = ANY (heads) LOOP
        done := outbox.promote_next(ended.destination, ended.ordering_key);
        IF done IN ('locked', 'expired') THEN
            INSERT INTO outbox.deferred_releases (destination, ordering_key) VALUES (ended.destination, ended.ordering_key);
            PERFORM outbox.hint();
        ELSIF done = 'promoted' OR outbox.release(ended.destination, ended.ordering_key) = 'promoted' THEN
            promoted := promoted + 1;
        END IF;
    END LOOP;
    RETURN promoted;
END $$;

-- Releases the next messages of the keys that operators' messages have, and had where each was sent to
-- another destination.
CREATE FUNCTION outbox.release_moved(ids uuid[], old_destinations text[]) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    k record;
BEGIN
    IF cardinality(ids) = 0 THEN
        RETURN;
    END IF;
    FOR k IN SELECT DISTINCT d.destination, m.ordering_key
               FROM unnest(ids, old_destinations) AS o (id, destination)
               JOIN outbox.messages AS m ON m.id = ANY (ARRAY[o.id])
              CROSS JOIN LATERAL (VALUES (m.destination), (o.destination)) AS d (destination)
              WHERE m.ordering_key IS NOT NULL LOOP
        PERFORM outbox.release(k.destination, k.ordering_key);
    END LOOP;
END $$;

-- Deletes up to so many keys that no producer has used for a time, and returns how many. A key with a
-- head or a follower stays. The second look has a snapshot that is newer than the locks.
-- It reads all keys: with enable_seqscan off Postgres takes that for dear work, which jit would compile.
CREATE FUNCTION outbox.purge_keys(idle interval, at_most integer) RETURNS integer
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off SET jit = off AS $$
DECLARE
    old_destinations text[];
    old_keys         text[];
    purged           integer;
BEGIN
    SELECT array_agg(o.destination), array_agg(o.ordering_key) INTO old_destinations, old_keys
      FROM (SELECT k.destination, k.ordering_key FROM outbox.keys AS k
             WHERE k.touched < now() - idle
               AND (SELECT true FROM outbox.messages AS m WHERE m.head AND m.destination = k.destination
                                AND m.ordering_key = k.ordering_key LIMIT 1) IS NULL
               AND (SELECT true FROM outbox.messages AS m WHERE m.follower AND m.destination = k.destination
                                AND m.ordering_key = k.ordering_key LIMIT 1) IS NULL
             LIMIT at_most
               FOR UPDATE SKIP LOCKED) AS o;
    DELETE FROM outbox.keys AS k
     USING unnest(old_destinations, old_keys) AS o (destination, ordering_key)
     WHERE k.destination = ANY (ARRAY[o.destination]) AND k.ordering_key = ANY (ARRAY[o.ordering_key])
       AND (SELECT true FROM outbox.messages AS m WHERE m.head AND m.destination = k.destination
                        AND m.ordering_key = k.ordering_key LIMIT 1) IS NULL
       AND (SELECT true FROM outbox.messages AS m WHERE m.follower AND m.destination = k.destination
                        AND m.ordering_key = k.ordering_key LIMIT 1) IS NULL;
    GET DIAGNOSTICS purged = ROW_COUNT;
    RETURN purged;
END $$;

-- Makes the deferred release of a key. The result is that of release: 'locked' where its producer still
-- holds it. It may wait for a producer only where the key's row was purged, and not for long.
CREATE FUNCTION outbox.settle(of_destination text, of_key text) RETURNS text
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET lock_timeout = '100ms' AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM outbox.keys AS k WHERE k.destination = of_destination AND k.ordering_key = of_key) THEN
        INSERT INTO outbox.keys (destination, ordering_key) VALUES (of_destination, of_key) ON CONFLICT DO NOTHING;
    END IF;
    PERFORM FROM outbox.keys AS k
      WHERE k.destination = of_destination AND k.ordering_key = of_key FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN 'locked';
    END IF;
    DELETE FROM outbox.deferred_releases AS o WHERE o.destination = of_destination AND o.ordering_key = of_key;
    RETURN outbox.release(of_destination, of_key);
EXCEPTION WHEN lock_not_available THEN
    RETURN 'locked';
END $$;

REVOKE ALL ON outbox.listeners FROM PUBLIC;
REVOKE ALL ON FUNCTION outbox.due_channel(uuid), outbox.hint(integer, boolean, uuid) FROM PUBLIC;

-- What the log's reader is told of: that messages were inserted, and not what is in them. Column lists
-- and conditions need Postgres 15. No message needs it, so a role that may not make it goes on without:
-- the starters' log and "outflow doctor" have the statement.
DO $$ BEGIN
    IF current_setting('server_version_num')::integer >= 150000 THEN
        IF NOT EXISTS (SELECT FROM pg_publication AS p WHERE p.pubname = 'outflow_messages') THEN
            CREATE PUBLICATION outflow_messages WITH (publish = 'insert');
        END IF;
        -- An earlier one outlives its schema, and is empty.
        ALTER PUBLICATION outflow_messages SET TABLE outbox.messages (id) WHERE (NOT follower);
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    NULL;
END $$;

SELECT pg_catalog.set_config('search_path', pg_catalog.current_setting('outflow.search_path'), false);
