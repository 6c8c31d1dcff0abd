SELECT pg_catalog.set_config('outflow.search_path', pg_catalog.current_setting('search_path'), false), pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);

-- The inbox: one row per message that a consumer has handled. Plain SQL: any
-- migration tool can apply it, inside a transaction.

-- CREATE SCHEMA IF NOT EXISTS asks for a right on the database even where the
-- schema is there already, made by somebody who has it.
DO $$ BEGIN
    IF to_regnamespace('inbox') IS NULL THEN
        CREATE SCHEMA inbox;
    END IF;
END $$;

CREATE TABLE inbox.seen (
    consumer   text        COLLATE "C" NOT NULL,
    message_id uuid        NOT NULL,
    seen_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer, message_id),
    CONSTRAINT seen_consumer   CHECK (length(consumer) <= 200 AND consumer ~ '^[A-Za-z0-9][A-Za-z0-9._:/-]*$'),
    CONSTRAINT seen_message_id CHECK (message_id <> '00000000-0000-0000-0000-000000000000')
);

-- What a purge reads: a consumer's oldest IDs, in their order.
CREATE INDEX seen_oldest ON inbox.seen (consumer, seen_at);

COMMENT ON TABLE inbox.seen IS 'Outflow: the messages that each consumer has handled, written in the transaction of their effect';
COMMENT ON COLUMN inbox.seen.message_id IS 'the attribute outflow-message-id, not the broker''s own ID';

REVOKE ALL ON SCHEMA inbox FROM PUBLIC;
REVOKE ALL ON inbox.seen FROM PUBLIC;

SELECT pg_catalog.set_config('search_path', pg_catalog.current_setting('outflow.search_path'), false);
