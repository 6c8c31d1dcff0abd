SELECT pg_catalog.set_config('outflow.search_path', pg_catalog.current_setting('search_path'), false), pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);

-- Which database this is: workflows carry the ID, and a worker on another database rejects them. A
-- dump without data leaves the row out; daemons write a missing one.
CREATE TABLE outbox.identity (
    id     uuid    NOT NULL,
    single boolean NOT NULL DEFAULT true PRIMARY KEY,
    CONSTRAINT identity_single CHECK (single)
);
INSERT INTO outbox.identity (id) VALUES (gen_random_uuid());

COMMENT ON TABLE outbox.identity IS 'Outflow: one row, the ID of this database';

REVOKE ALL ON outbox.identity FROM PUBLIC;

SELECT pg_catalog.set_config('search_path', pg_catalog.current_setting('outflow.search_path'), false);
