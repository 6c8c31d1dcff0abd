SELECT pg_catalog.set_config('outflow.search_path', pg_catalog.current_setting('search_path'), false), pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);

-- Who did what, when and why. A row outlives its message. "who" is what the operator says. The
-- database itself notes the login, whatever role was set since, and no grant lets a role write
-- another.
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
    login       text        NOT NULL DEFAULT session_user,
    CONSTRAINT audit_act CHECK (act <> ''),
    CONSTRAINT audit_who CHECK (who <> '')
);
CREATE INDEX audit_message ON outbox.audit (message_id, id) WHERE message_id IS NOT NULL;
COMMENT ON TABLE outbox.audit IS 'Outflow: what operators did';
COMMENT ON COLUMN outbox.audit.login IS 'the role that the connection logged in as';

-- Where a purge moves final rows, if the schedule says so. Its columns are those of
-- outbox.messages, and when the row was moved. Nothing of Outflow reads it. It is a log: a message
-- that comes back and ends again is there twice.
CREATE TABLE outbox.history (
    LIKE outbox.messages,
    moved_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (id, moved_at)
);
CREATE INDEX history_finished ON outbox.history (finished_at);
COMMENT ON TABLE outbox.history IS 'Outflow: final messages that were purged from outbox.messages';

REVOKE ALL ON outbox.audit, outbox.history FROM PUBLIC;

SELECT pg_catalog.set_config('search_path', pg_catalog.current_setting('outflow.search_path'), false);
