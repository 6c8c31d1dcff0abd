-- The outbox: one row per message. Plain SQL: any migration tool can apply it,
-- inside a transaction.

CREATE SCHEMA IF NOT EXISTS outbox;

-- Whether a destination is in canonical form. Used by the table, whose every
-- update runs it, and by enqueue. Lengths are compared outside of the patterns:
-- counted repetitions and look-ahead make Postgres's expressions many times slower.
CREATE FUNCTION outbox.is_destination(destination text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN octet_length(destination) <= 2000 AND CASE split_part(destination, '://', 1)
        WHEN 'sqs' THEN length(split_part(substr(destination, 7), '?', 1)) <= 80
            AND destination ~ '^sqs://[A-Za-z0-9_-]+(\.fifo)?(\?account=\d{12}(&region=[a-z]+(-[a-z]+)+-\d+)?|\?region=[a-z]+(-[a-z]+)+-\d+)?$'
        WHEN 'sns' THEN length(split_part(substr(destination, 7), '?', 1)) <= 256
            AND destination ~ '^sns://[A-Za-z0-9_-]+(\.fifo)?(\?account=\d{12}(&region=[a-z]+(-[a-z]+)+-\d+)?|\?region=[a-z]+(-[a-z]+)+-\d+)?$'
        WHEN 'rabbitmq' THEN destination <> 'rabbitmq:///' AND octet_length(destination) <= 500
            AND destination ~ '^rabbitmq://([A-Za-z0-9._~$&+=:@-]|%[0-9A-F][0-9A-F])*/([A-Za-z0-9._~$&+=:@-]|%[0-9A-F][0-9A-F])*$'
        WHEN 'https' THEN
            destination ~ '^https://[A-Za-z0-9._~-]+(:\d+)?([/?]([A-Za-z0-9._~:/?@!$&''()*+,;=-]|\[|\]|%[0-9A-Fa-f][0-9A-Fa-f])*)?$'
        ELSE false END;

CREATE TABLE outbox.messages (
    id                uuid        PRIMARY KEY,
    seq               bigint      GENERATED ALWAYS AS IDENTITY (CACHE 1),
    destination       text        COLLATE "C" NOT NULL,
    type              text        NOT NULL,
    payload           bytea       NOT NULL,
    content_type      text        NOT NULL DEFAULT 'application/json',
    headers           jsonb       NOT NULL DEFAULT '{}',
    ordering_key      text,
    batch_id          uuid,
    callback          text,
    callback_state    text,
    state             text        NOT NULL DEFAULT 'pending',
    generation        integer     NOT NULL DEFAULT 1,
    claims            integer     NOT NULL DEFAULT 0,
    attempts          integer     NOT NULL DEFAULT 0,
    retrying          boolean     NOT NULL DEFAULT false,
    cancel_requested  boolean     NOT NULL DEFAULT false,
    enqueued_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    due_at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    available_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at        timestamptz,
    finished_at       timestamptz,
    broker_message_id text,
    last_error        text,

    CONSTRAINT messages_id           CHECK (id <> '00000000-0000-0000-0000-000000000000'),
    CONSTRAINT messages_destination  CHECK (outbox.is_destination(destination)),
    CONSTRAINT messages_type         CHECK (length(type) <= 200 AND type ~ '^[A-Za-z0-9][A-Za-z0-9._:/-]*$'),
    CONSTRAINT messages_payload      CHECK (octet_length(payload) BETWEEN 1 AND 16777216),
    CONSTRAINT messages_content_type CHECK (length(content_type) BETWEEN 1 AND 255 AND content_type !~ '[^ -~]' AND content_type = btrim(content_type)),
    CONSTRAINT messages_headers      CHECK (headers = '{}' OR (jsonb_typeof(headers) = 'object' AND NOT headers @? '$.* ? (@.type() <> "string")')),
    CONSTRAINT messages_ordering_key CHECK (length(ordering_key) <= 128 AND ordering_key ~ '^[!-~]+$'),
    CONSTRAINT messages_callback     CHECK (callback IS NULL OR outbox.is_destination(callback)),
    CONSTRAINT messages_callback_state
        CHECK (callback_state IS NULL OR (callback_state IN ('due', 'sent', 'failed') AND callback IS NOT NULL)),
    CONSTRAINT messages_state        CHECK (state IN ('pending', 'delivered', 'dead', 'expired', 'cancelled')),
    CONSTRAINT messages_finished_at  CHECK ((state = 'pending') = (finished_at IS NULL)),
    CONSTRAINT messages_retrying     CHECK (NOT retrying OR state = 'pending'),
    CONSTRAINT messages_generation   CHECK (generation >= 1),
    CONSTRAINT messages_counts       CHECK (claims >= 0 AND attempts >= 0),
    CONSTRAINT messages_due_at       CHECK (due_at BETWEEN '2000-01-01Z' AND '9999-12-31Z' AND isfinite(available_at)),
    CONSTRAINT messages_expires_at   CHECK (expires_at > due_at AND expires_at <= '9999-12-31Z')
);

-- The one index that finds what may be claimed: new, delayed and lease-expired
-- rows alike. Another index on available_at would mislead the planner.
CREATE INDEX messages_claim ON outbox.messages (destination, available_at) WHERE state = 'pending';

COMMENT ON TABLE outbox.messages IS 'Outflow: one row per message, written by outbox.enqueue in the producer''s transaction';
COMMENT ON COLUMN outbox.messages.due_at IS 'when the delivery was asked for; age and latency count from here';
COMMENT ON COLUMN outbox.messages.available_at IS 'when the row may next be claimed; in the future while a lease is held';
COMMENT ON COLUMN outbox.messages.generation IS 'counts an operator''s new starts; guards every write of a run';
COMMENT ON COLUMN outbox.messages.claims IS 'claims that led to a start and to no end';
COMMENT ON COLUMN outbox.messages.retrying IS 'its run has left the fast path';

REVOKE ALL ON SCHEMA outbox FROM PUBLIC;
REVOKE ALL ON outbox.messages FROM PUBLIC;
