SELECT pg_catalog.set_config('outflow.search_path', pg_catalog.current_setting('search_path'), false), pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);

-- Starters that want to be told of new messages (OUTFLOW_TRIGGER=listen or wal): a row for each
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
CREATE FUNCTION outbox.hint(passed integer DEFAULT 0, by_producer boolean DEFAULT false, full_starter uuid DEFAULT NULL)
    RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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

REVOKE ALL ON outbox.listeners FROM PUBLIC;
REVOKE ALL ON FUNCTION outbox.due_channel(uuid), outbox.hint(integer, boolean, uuid) FROM PUBLIC;

-- What the log's reader is told of: that messages were inserted, and not what is in them. A role that
-- may not create a publication leaves it out; "outflow doctor" prints the statement. Column lists and
-- conditions need Postgres 15.
DO $$ BEGIN
    IF current_setting('server_version_num')::integer >= 150000
        AND has_database_privilege(current_database(), 'CREATE') THEN
        IF NOT EXISTS (SELECT FROM pg_publication AS p WHERE p.pubname = 'outflow_messages') THEN
            CREATE PUBLICATION outflow_messages WITH (publish = 'insert');
        END IF;
        -- An earlier one outlives its schema, and is empty.
        ALTER PUBLICATION outflow_messages SET TABLE outbox.messages (id) WHERE (NOT follower);
    END IF;
END $$;

SELECT pg_catalog.set_config('search_path', pg_catalog.current_setting('outflow.search_path'), false);
