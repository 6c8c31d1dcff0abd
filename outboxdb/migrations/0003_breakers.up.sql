SELECT pg_catalog.set_config('outflow.search_path', pg_catalog.current_setting('search_path'), false), pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);

-- The circuit breakers, one set for all processes. A row's name says what it covers:
--   sqs://orders             a destination
--   https://host[:port]      a target: every destination of a host, an exchange or a task queue. It counts
--                            failures of the connection: refused, no answer, TLS, name
--   https://host#new         the destinations of a target that no message has reached yet
--   sns:                     a scheme that no running process publishes to; never a breaker.
--                            No destination has such a name
-- A row is written when its breaker counts a failure, when a message first reached its destination,
-- when a target answers slowly, and when messages wait for a destination or a scheme.
CREATE TABLE outbox.destinations (
    destination   text        COLLATE "C" NOT NULL PRIMARY KEY,
    -- The breaker covers the destinations from the first name up to, but without, the second:
    -- canonical destinations of a target begin with its name and "/".
    covers_from   text        COLLATE "C" NOT NULL GENERATED ALWAYS AS (
        CASE WHEN destination ~ '^[^/]*:$' THEN destination
             WHEN destination ~ '^(https?|rabbitmq|temporal)://[^/]*$' THEN split_part(destination, '#', 1) || '/' ELSE destination END) STORED,
    covers_before text        COLLATE "C" NOT NULL GENERATED ALWAYS AS (
        CASE WHEN destination ~ '^[^/]*:$' THEN rtrim(destination, ':') || ';'
             WHEN destination ~ '^(https?|rabbitmq|temporal)://[^/]*$' THEN split_part(destination, '#', 1) || '0' ELSE destination || E'\x01' END) STORED,
    delivered_at  timestamptz,
    failures      integer     NOT NULL DEFAULT 0,
    failing_since timestamptz,
    failed_at     timestamptz,
    openings      integer     NOT NULL DEFAULT 0,
    open_until    timestamptz,
    retry_after_until   timestamptz,
    probe_destination      text        COLLATE "C",
    probe_id      uuid,
    probe_until   timestamptz,
    probes        integer     NOT NULL DEFAULT 0,
    recovered_at  timestamptz,
    signalled_destination       text        COLLATE "C",
    signalled_id       uuid,
    last_error    text,
    slow_until    timestamptz,
    missing_since timestamptz,
    missing_reason text,
    CONSTRAINT destinations_counts  CHECK (failures >= 0 AND openings >= 0),
    CONSTRAINT destinations_open    CHECK ((open_until IS NULL) = (openings = 0)),
    CONSTRAINT destinations_failing CHECK (open_until IS NULL OR failing_since IS NOT NULL),
    CONSTRAINT destinations_missing CHECK ((missing_since IS NULL) = (missing_reason IS NULL))
) WITH (fillfactor = 50);

-- Open breakers, and closed ones whose runs are to be signalled: a scanner reads them all the time.
CREATE INDEX destinations_breaker_active ON outbox.destinations (destination)
    WHERE open_until IS NOT NULL OR recovered_at IS NOT NULL;

-- Breakers that have counted failures and have not opened: stale failures are forgotten.
CREATE INDEX destinations_failing ON outbox.destinations (failing_since)
    WHERE open_until IS NULL AND failing_since IS NOT NULL;

-- Destinations and schemes that messages wait for: looked at once a second for messages that have
-- waited long enough.
CREATE INDEX destinations_missing ON outbox.destinations (destination) WHERE missing_since IS NOT NULL;

COMMENT ON TABLE outbox.destinations IS 'Outflow: circuit breakers of destinations, targets and new destinations';
COMMENT ON COLUMN outbox.destinations.delivered_at IS 'when a message last reached the destination: it exists, or is taken to come back';
COMMENT ON COLUMN outbox.destinations.failures IS 'failures since the last success';
COMMENT ON COLUMN outbox.destinations.failed_at IS 'when a failure was last noted';
COMMENT ON COLUMN outbox.destinations.open_until IS 'the breaker is open: nothing is sent until then, and after it one probe at a time';
COMMENT ON COLUMN outbox.destinations.retry_after_until IS 'the destination asked for no request until then (Retry-After): no success closes the breaker before';
COMMENT ON COLUMN outbox.destinations.openings IS 'openings of the breaker since the last success';
COMMENT ON COLUMN outbox.destinations.probe_id IS 'the one message that may be sent while the breaker is open';
COMMENT ON COLUMN outbox.destinations.probe_destination IS 'the destination of that message';
COMMENT ON COLUMN outbox.destinations.recovered_at IS 'the breaker closed; its retrying runs are still to be signalled';
COMMENT ON COLUMN outbox.destinations.probes IS 'probes so far: waiting messages and retried ones take turns';
COMMENT ON COLUMN outbox.destinations.signalled_id IS 'the last retrying run that was signalled after this recovery, by destination (signalled_destination) and ID';
COMMENT ON COLUMN outbox.destinations.slow_until IS 'the target takes longer to answer than the fast path has: until then its messages leave it unsent';

COMMENT ON COLUMN outbox.destinations.missing_since IS 'the destination did not exist since then, or no running process publishes to the scheme';
COMMENT ON COLUMN outbox.destinations.missing_reason IS 'why its messages wait, and end dead when their grace is over';

REVOKE ALL ON outbox.destinations FROM PUBLIC;

-- The running starters and workers, and the schemes that they publish to. Each writes its row every
-- 15 seconds, and deletes it at its end. One that was not seen for a minute counts as gone.
CREATE TABLE outbox.processes (
    id         uuid        PRIMARY KEY,
    name       text        NOT NULL,
    host       text        NOT NULL,
    schemes    text[],
    scans      boolean     NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    seen_at    timestamptz NOT NULL DEFAULT now(),
    trigger    text,
    trigger_problem text
) WITH (fillfactor = 50);

COMMENT ON TABLE outbox.processes IS 'Outflow: the running starters and workers';
COMMENT ON COLUMN outbox.processes.schemes IS 'the schemes of the destinations that it publishes to; NULL where it does not say';
COMMENT ON COLUMN outbox.processes.scans IS 'it claims messages';
COMMENT ON COLUMN outbox.processes.trigger IS 'what wakes it: poll, listen or wal';
COMMENT ON COLUMN outbox.processes.trigger_problem IS 'why it polls all the same';
COMMENT ON COLUMN outbox.processes.seen_at IS 'when it last said that it runs';

REVOKE ALL ON outbox.processes FROM PUBLIC;

SELECT pg_catalog.set_config('search_path', pg_catalog.current_setting('outflow.search_path'), false);
