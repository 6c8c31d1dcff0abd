SELECT pg_catalog.set_config('outflow.search_path', pg_catalog.current_setting('search_path'), false), pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
DROP FUNCTION outbox.group_outcomes(uuid[]);
DROP FUNCTION outbox.outcomes(uuid[]);
DROP FUNCTION outbox.drop_waiter(uuid);
DROP FUNCTION outbox.keep_waiter(uuid);
DROP FUNCTION outbox.notify_waiters(uuid[]);
DROP FUNCTION outbox.notice_of(uuid);
DROP TABLE outbox.waiters;
SELECT pg_catalog.set_config('search_path', pg_catalog.current_setting('outflow.search_path'), false);
