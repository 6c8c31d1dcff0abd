SELECT pg_catalog.set_config('outflow.search_path', pg_catalog.current_setting('search_path'), false), pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
DROP PUBLICATION IF EXISTS outflow_messages;
DROP FUNCTION outbox.hint(integer, boolean, uuid);
DROP FUNCTION outbox.due_channel(uuid);
DROP TABLE outbox.listeners;
SELECT pg_catalog.set_config('search_path', pg_catalog.current_setting('outflow.search_path'), false);
