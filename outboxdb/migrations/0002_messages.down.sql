SELECT pg_catalog.set_config('outflow.search_path', pg_catalog.current_setting('search_path'), false), pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
DO $$ BEGIN
    DROP PUBLICATION IF EXISTS outflow_messages;
EXCEPTION WHEN insufficient_privilege THEN
    NULL;
END $$;
DROP FUNCTION outbox.settle(text, text);
DROP FUNCTION outbox.purge_keys(interval, integer);
DROP FUNCTION outbox.release_moved(uuid[], text[]);
DROP FUNCTION outbox.promote(uuid[]);
DROP FUNCTION outbox.release(text, text);
DROP FUNCTION outbox.promote_next(text, text);
DROP FUNCTION outbox.take_keys(text[], text[]);
DROP FUNCTION outbox.hint(integer, boolean, uuid);
DROP FUNCTION outbox.due_channel(uuid);
DROP TABLE outbox.listeners;
DROP TABLE outbox.deferred_releases;
DROP TABLE outbox.keys;
DROP TABLE outbox.messages;
SELECT pg_catalog.set_config('search_path', pg_catalog.current_setting('outflow.search_path'), false);
