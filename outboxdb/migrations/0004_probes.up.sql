-- Who probes in turn, and how far the telling of a recovery has come.
ALTER TABLE outbox.destinations
    ADD COLUMN probes  integer NOT NULL DEFAULT 0,
    ADD COLUMN told_id uuid;

COMMENT ON COLUMN outbox.destinations.probes IS 'probes so far: those that wait and those that are retried take turns';
COMMENT ON COLUMN outbox.destinations.told_id IS 'the last of its retrying runs that was told of this recovery, by ID';
