ALTER TABLE outbox.destinations
    DROP COLUMN told_id,
    DROP COLUMN probes;
