SELECT pg_catalog.set_config('outflow.search_path', pg_catalog.current_setting('search_path'), false), pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
-- What is in a page waits for a time that is a day away, and nobody frees it any more.
UPDATE outbox.messages AS m SET available_at = now(), parked = false
  FROM outbox.pages AS p
 WHERE m.destination = p.destination AND m.available_at = p.at AND m.streamed AND m.state = 'pending' AND m.parked;
DROP TABLE outbox.pages;
DROP TABLE outbox.streams;
SELECT pg_catalog.set_config('search_path', pg_catalog.current_setting('outflow.search_path'), false);
