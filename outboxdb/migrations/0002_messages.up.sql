SELECT pg_catalog.set_config('outflow.search_path', pg_catalog.current_setting('search_path'), false), pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);

-- One row per message.

CREATE TABLE outbox.messages (
    id                uuid        PRIMARY KEY,
    seq               bigint      GENERATED ALWAYS AS IDENTITY (CACHE 1),
    destination       text        COLLATE "C" NOT NULL,
    type              text        NOT NULL,
    payload           bytea       NOT NULL,
    content_type      text        NOT NULL DEFAULT 'application/json',
    headers           jsonb       NOT NULL DEFAULT '{}',
    ordering_key      text,
    group_id          uuid,
    group_place       smallint,
    callback          text,
    callback_state    text,
    callback_payload  boolean     NOT NULL DEFAULT false,
    callback_attempts integer     NOT NULL DEFAULT 0,
    callback_error    text,
    callback_due_at   timestamptz,
    state             text        NOT NULL DEFAULT 'pending',
    generation        integer     NOT NULL DEFAULT 1,
    claims            integer     NOT NULL DEFAULT 0,
    attempts          integer     NOT NULL DEFAULT 0,
    retrying          boolean     NOT NULL DEFAULT false,
    parked            boolean     NOT NULL DEFAULT false,
    started           boolean     NOT NULL DEFAULT false,
    cancel_requested  boolean     NOT NULL DEFAULT false,
    enqueued_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    due_at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    available_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at        timestamptz,
    finished_at       timestamptz,
    dismissed_at      timestamptz,
    broker_message_id text,
    last_error        text,

    CONSTRAINT messages_id           CHECK (id <> '00000000-0000-0000-0000-000000000000'),
    CONSTRAINT messages_destination  CHECK (outbox.is_destination(destination)),
    CONSTRAINT messages_type         CHECK (length(type) <= 200 AND type ~ '^[A-Za-z0-9][A-Za-z0-9._:/-]*$' AND type !~* '^outflow[.]'),
    CONSTRAINT messages_payload      CHECK (octet_length(payload) BETWEEN 1 AND 16777216),
    CONSTRAINT messages_content_type CHECK (length(content_type) BETWEEN 1 AND 255 AND content_type !~ '[^ -~]' AND content_type = btrim(content_type)),
    -- The names and types. outbox.enqueue checks the numbers and lengths too, which cost more than
    -- an update may.
    CONSTRAINT messages_headers      CHECK (headers = '{}' OR (jsonb_typeof(headers) = 'object' AND NOT headers @?
        '$.keyvalue() ? (!(@.key like_regex "^[A-Za-z0-9_-]+([.][A-Za-z0-9_-]+)*$") || @.key like_regex "^(outflow|aws[.]|amazon[.]|content-type$)" flag "i" || @.value.type() <> "string")')),
    CONSTRAINT messages_ordering_key CHECK (length(ordering_key) <= 128 AND ordering_key ~ '^[!-~]+$'),
    CONSTRAINT messages_group_place  CHECK ((group_id IS NULL) = (group_place IS NULL)),
    CONSTRAINT messages_callback     CHECK (callback IS NULL OR (outbox.is_destination(callback) AND callback !~ '^temporal://.*[?&]signal=')),
    CONSTRAINT messages_callback_payload CHECK (NOT callback_payload OR callback IS NOT NULL),
    CONSTRAINT messages_callback_state
        CHECK (callback_state IS NULL OR (callback_state IN ('due', 'sent', 'failed') AND callback IS NOT NULL)),
    CONSTRAINT messages_callback_attempts CHECK (callback_attempts >= 0),
    CONSTRAINT messages_callback_due
        CHECK (callback_state IS DISTINCT FROM 'due' OR (callback_due_at IS NOT NULL AND finished_at IS NOT NULL)),
    CONSTRAINT messages_state        CHECK (state IN ('pending', 'delivered', 'dead', 'expired', 'cancelled')),
    CONSTRAINT messages_finished_at  CHECK ((state = 'pending') = (finished_at IS NULL)),
    CONSTRAINT messages_dismissed_at CHECK (dismissed_at IS NULL OR state = 'dead'),
    CONSTRAINT messages_retrying     CHECK (NOT retrying OR state = 'pending'),
    CONSTRAINT messages_generation   CHECK (generation >= 1),
    CONSTRAINT messages_counts       CHECK (claims >= 0 AND attempts >= 0),
    CONSTRAINT messages_due_at       CHECK (due_at >= '2000-01-01Z' AND due_at < '10000-01-01Z' AND isfinite(available_at)),
    CONSTRAINT messages_expires_at   CHECK (expires_at > due_at AND expires_at < '10000-01-01Z')
);

-- Rows that may be claimed. It has no row that waits for its time: a hundred thousand delayed
-- messages cost a claim nothing. Statements say "NOT parked" literally: each of these two indexes
-- has a part of the pending rows.
CREATE INDEX messages_claim ON outbox.messages (destination, available_at) WHERE state = 'pending' AND NOT parked;

-- Leased, delayed and put-back rows, by the second in which a scanner unparks them, and in each by
-- destination: however many messages of one become due together, the others are found.
CREATE INDEX messages_parked ON outbox.messages (date_bin('1 second'::interval, available_at, '2000-01-01Z'::timestamptz), destination, available_at)
    WHERE state = 'pending' AND parked;

-- Messages off the fast path, by destination: counted for the cap, signalled after a recovery.
CREATE INDEX messages_retrying ON outbox.messages (destination, id) WHERE retrying;

-- Quarantined messages: their process crashed again and again.
CREATE INDEX messages_quarantined ON outbox.messages (id) WHERE state = 'pending' AND claims >= 5;

-- Final rows by age, for a purge and for "outflow list".
CREATE INDEX messages_finished ON outbox.messages (state, finished_at) WHERE finished_at IS NOT NULL;

-- Dismissed messages by age, for a purge.
CREATE INDEX messages_dismissed ON outbox.messages (dismissed_at) WHERE dismissed_at IS NOT NULL;

-- The messages of one enqueue by route. Unique, because two calls for one group may see different
-- routes: then the IDs of their messages differ, and their places don't.
CREATE UNIQUE INDEX messages_group ON outbox.messages (group_id, group_place) WHERE group_id IS NOT NULL;

-- Due callbacks, the longest due first.
CREATE INDEX messages_callbacks ON outbox.messages (callback_due_at) WHERE callback_state = 'due';

-- Every message leaves two dead versions of its row (claim and end) and later a hole. The defaults
-- wait for a fifth of the table: an outbox of millions of delivered rows would carry as many dead
-- ones through its claim index. So vacuum after some thousand, at ten times the default speed.
-- Analyze as often, because the share of pending rows changes within seconds.
ALTER TABLE outbox.messages SET (
    autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_insert_threshold = 20000, autovacuum_vacuum_insert_scale_factor = 0.02,
    autovacuum_analyze_threshold = 5000, autovacuum_analyze_scale_factor = 0.02,
    autovacuum_vacuum_cost_limit = 2000,
    toast.autovacuum_vacuum_threshold = 5000, toast.autovacuum_vacuum_scale_factor = 0.01,
    toast.autovacuum_vacuum_cost_limit = 2000
);

COMMENT ON TABLE outbox.messages IS 'Outflow: one row per message, written by outbox.enqueue in the producer''s transaction';
COMMENT ON COLUMN outbox.messages.due_at IS 'when the delivery is asked for; age and latency count from here';
COMMENT ON COLUMN outbox.messages.available_at IS 'when the row may next be claimed; in the future while a lease is held';
COMMENT ON COLUMN outbox.messages.generation IS 'rises when an operator starts the message again; guards every write of a run';
COMMENT ON COLUMN outbox.messages.claims IS 'claims after which the process crashed, as far as the table knows; from 5 on the message is quarantined';
COMMENT ON COLUMN outbox.messages.group_id IS 'the ID that an enqueue by route returned for all of its messages';
COMMENT ON COLUMN outbox.messages.group_place IS 'the place of the message in its group, from 1';
COMMENT ON COLUMN outbox.messages.callback_payload IS 'the callback carries the payload';
COMMENT ON COLUMN outbox.messages.callback_due_at IS 'a scanner starts the callback then, unless its run has moved this time';
COMMENT ON COLUMN outbox.messages.parked IS 'available_at was in the future when it was written; a scanner clears this when that time has come';
COMMENT ON COLUMN outbox.messages.started IS 'claimed since the enqueue or an operator''s last start: a run may exist';
COMMENT ON COLUMN outbox.messages.dismissed_at IS 'an operator dismissed the dead message: doctor and status no longer count it';
COMMENT ON COLUMN outbox.messages.retrying IS 'its run has left the fast path';

REVOKE ALL ON outbox.messages FROM PUBLIC;

SELECT pg_catalog.set_config('search_path', pg_catalog.current_setting('outflow.search_path'), false);
