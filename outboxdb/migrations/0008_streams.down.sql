SELECT pg_catalog.set_config('outflow.search_path', pg_catalog.current_setting('search_path'), false), pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
DROP TABLE outbox.pages;
DROP TABLE outbox.streams;
SELECT pg_catalog.set_config('search_path', pg_catalog.current_setting('outflow.search_path'), false);
