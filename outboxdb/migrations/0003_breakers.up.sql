-- How each destination does, for every process at once. A row is written when a
-- destination fails, and once when a message first reached it.
CREATE TABLE outbox.destinations (
    destination   text        COLLATE "C" NOT NULL PRIMARY KEY,
    delivered_at  timestamptz,
    failures      integer     NOT NULL DEFAULT 0,
    failing_since timestamptz,
    openings      integer     NOT NULL DEFAULT 0,
    open_until    timestamptz,
    probe_id      uuid,
    probe_until   timestamptz,
    probes        integer     NOT NULL DEFAULT 0,
    recovered_at  timestamptz,
    told_id       uuid,
    last_error    text,
    CONSTRAINT destinations_counts  CHECK (failures >= 0 AND openings >= 0),
    CONSTRAINT destinations_open    CHECK ((open_until IS NULL) = (openings = 0)),
    CONSTRAINT destinations_failing CHECK (open_until IS NULL OR failing_since IS NOT NULL)
) WITH (fillfactor = 50);

-- The few that need somebody's attention: a scanner asks for them all the time.
CREATE INDEX destinations_troubled ON outbox.destinations (destination)
    WHERE open_until IS NOT NULL OR recovered_at IS NOT NULL;

COMMENT ON TABLE outbox.destinations IS 'Outflow: how each destination does';
COMMENT ON COLUMN outbox.destinations.delivered_at IS 'a message reached it: it exists, and is missed where it does not';
COMMENT ON COLUMN outbox.destinations.failures IS 'failures since the last success';
COMMENT ON COLUMN outbox.destinations.open_until IS 'the breaker is open: nothing is sent until then, and after it one probe at a time';
COMMENT ON COLUMN outbox.destinations.openings IS 'openings of the breaker since the last success';
COMMENT ON COLUMN outbox.destinations.probe_id IS 'the one message that may be sent while the breaker is open';
COMMENT ON COLUMN outbox.destinations.recovered_at IS 'the breaker closed; its retrying runs are still to be told';
COMMENT ON COLUMN outbox.destinations.probes IS 'probes so far: those that wait and those that are retried take turns';
COMMENT ON COLUMN outbox.destinations.told_id IS 'the last of its retrying runs that was told of this recovery, by ID';

REVOKE ALL ON outbox.destinations FROM PUBLIC;
