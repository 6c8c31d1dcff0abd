-- The outbox: one row per message. Plain SQL: any migration tool can apply it,
-- inside a transaction.

-- CREATE SCHEMA IF NOT EXISTS asks for a right on the database even where the
-- schema is there already, made by somebody who has it.
DO $$ BEGIN
    IF to_regnamespace('outbox') IS NULL THEN
        CREATE SCHEMA outbox;
    END IF;
END $$;

-- Whether a destination is in canonical form. Used by the table, whose every
-- update runs it, and by enqueue. Lengths are compared outside of the patterns:
-- counted repetitions and look-ahead make Postgres's expressions many times slower.
-- What it accepts, outflow.ParseDestination reads and writes back as it is: so of
-- RabbitMQ's percent-encoded bytes only UTF-8, no control characters, and none
-- that need no encoding; and no queue URL, which means the queue. Plain http is
-- for development: its hosts are this machine alone, in one spelling each.
CREATE FUNCTION outbox.is_destination(destination text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN octet_length(destination) <= 2000 AND CASE split_part(destination, '://', 1)
        WHEN 'sqs' THEN length(split_part(substr(destination, 7), '?', 1)) <= 80
            AND destination ~ '^sqs://[A-Za-z0-9_-]+(\.fifo)?(\?account=[0-9]{12}(&region=[a-z][a-z][a-z]?[a-z]?(-[a-z]+)+-[0-9][0-9]?)?|\?region=[a-z][a-z][a-z]?[a-z]?(-[a-z]+)+-[0-9][0-9]?)?$'
        WHEN 'sns' THEN length(split_part(substr(destination, 7), '?', 1)) <= 256
            AND destination ~ '^sns://[A-Za-z0-9_-]+(\.fifo)?(\?account=[0-9]{12}(&region=[a-z][a-z][a-z]?[a-z]?(-[a-z]+)+-[0-9][0-9]?)?|\?region=[a-z][a-z][a-z]?[a-z]?(-[a-z]+)+-[0-9][0-9]?)?$'
        WHEN 'rabbitmq' THEN destination <> 'rabbitmq:///' AND cardinality(string_to_array(destination, '/')) = 4
            AND octet_length(regexp_replace(split_part(destination, '/', 3), '%..', '.', 'g')) <= 255
            AND octet_length(regexp_replace(split_part(destination, '/', 4), '%..', '.', 'g')) <= 255
            AND destination ~ ('^rabbitmq:([/A-Za-z0-9._~$&+=:@-]|%2[0-35789ACF]|%3[BCEF]|%5[B-E]|%60|%7[B-D]'
                || '|%(C2%[AB]|(C[3-9A-F]|D[0-9A-F])%[89AB])[0-9A-F]'
                || '|%(E0%[AB]|ED%[89]|E[1-9ABCEF]%[89AB])[0-9A-F]%[89AB][0-9A-F]'
                || '|%(F0%[9AB]|F[1-3]%[89AB]|F4%8)[0-9A-F]%[89AB][0-9A-F]%[89AB][0-9A-F])*$')
        WHEN 'https' THEN
            destination ~ '^https://[A-Za-z0-9._~-]+(:[0-9]+)?([/?]([A-Za-z0-9._~:/?@!$&''()*+,;=-]|\[|\]|%[0-9A-Fa-f][0-9A-Fa-f])*)?$'
            AND destination !~ '^https://(sqs\.[a-z0-9-]+|[a-z0-9-]+\.sqs\.[a-z0-9-]+\.vpce|[a-z0-9-]+\.queue)\.amazonaws\.com(\.cn)?/[0-9]{12}/[^/?#]+$'
        WHEN 'http' THEN
            destination ~ ('^http://(localhost|127(\.(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])){3}|\[::1\])'
                || '(:[0-9]+)?([/?]([A-Za-z0-9._~:/?@!$&''()*+,;=-]|\[|\]|%[0-9A-Fa-f][0-9A-Fa-f])*)?$')
            AND destination !~ '^http://[^/?#@]+/[0-9]{12}/[^/?#]+$'
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
    callback_payload  boolean     NOT NULL DEFAULT false,
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
    -- The names and types; enqueue holds the numbers and lengths too, which cost more than an update may.
    CONSTRAINT messages_headers      CHECK (headers = '{}' OR (jsonb_typeof(headers) = 'object' AND NOT headers @?
        '$.keyvalue() ? (!(@.key like_regex "^[A-Za-z0-9_-]+([.][A-Za-z0-9_-]+)*$") || @.key like_regex "^(outflow|aws[.]|amazon[.]|content-type$)" flag "i" || @.value.type() <> "string")')),
    CONSTRAINT messages_ordering_key CHECK (length(ordering_key) <= 128 AND ordering_key ~ '^[!-~]+$'),
    CONSTRAINT messages_callback     CHECK (callback IS NULL OR outbox.is_destination(callback)),
    CONSTRAINT messages_callback_payload CHECK (NOT callback_payload OR callback IS NOT NULL),
    CONSTRAINT messages_callback_state
        CHECK (callback_state IS NULL OR (callback_state IN ('due', 'sent', 'failed') AND callback IS NOT NULL)),
    CONSTRAINT messages_state        CHECK (state IN ('pending', 'delivered', 'dead', 'expired', 'cancelled')),
    CONSTRAINT messages_finished_at  CHECK ((state = 'pending') = (finished_at IS NULL)),
    CONSTRAINT messages_retrying     CHECK (NOT retrying OR state = 'pending'),
    CONSTRAINT messages_generation   CHECK (generation >= 1),
    CONSTRAINT messages_counts       CHECK (claims >= 0 AND attempts >= 0),
    CONSTRAINT messages_due_at       CHECK (due_at >= '2000-01-01Z' AND due_at < '10000-01-01Z' AND isfinite(available_at)),
    CONSTRAINT messages_expires_at   CHECK (expires_at > due_at AND expires_at < '10000-01-01Z')
);

-- The one index that finds what may be claimed: new, delayed and lease-expired
-- rows alike. Another index on available_at would mislead the planner.
CREATE INDEX messages_claim ON outbox.messages (destination, available_at) WHERE state = 'pending';

COMMENT ON TABLE outbox.messages IS 'Outflow: one row per message, written by outbox.enqueue in the producer''s transaction';
COMMENT ON COLUMN outbox.messages.due_at IS 'when the delivery was asked for; age and latency count from here';
COMMENT ON COLUMN outbox.messages.available_at IS 'when the row may next be claimed; in the future while a lease is held';
COMMENT ON COLUMN outbox.messages.generation IS 'counts an operator''s new starts; guards every write of a run';
COMMENT ON COLUMN outbox.messages.claims IS 'claims that led to a start and to no end';
COMMENT ON COLUMN outbox.messages.callback_payload IS 'the callback carries the payload, too';
COMMENT ON COLUMN outbox.messages.retrying IS 'its run has left the fast path';

REVOKE ALL ON SCHEMA outbox FROM PUBLIC;
REVOKE ALL ON outbox.messages FROM PUBLIC;
