DROP FUNCTION outbox.outcomes(uuid[]);
DROP FUNCTION outbox.drop_waiter(uuid);
DROP FUNCTION outbox.keep_waiter(uuid);
DROP FUNCTION outbox.tell_waiters(uuid[]);
DROP TABLE outbox.waiters;
DROP TABLE outbox.history;
DROP TABLE outbox.audit;
ALTER TABLE outbox.messages RESET (
    autovacuum_vacuum_threshold, autovacuum_vacuum_scale_factor,
    autovacuum_vacuum_insert_threshold, autovacuum_vacuum_insert_scale_factor,
    autovacuum_analyze_threshold, autovacuum_analyze_scale_factor, autovacuum_vacuum_cost_limit,
    toast.autovacuum_vacuum_threshold, toast.autovacuum_vacuum_scale_factor, toast.autovacuum_vacuum_cost_limit
);
DROP INDEX outbox.messages_callbacks;
ALTER TABLE outbox.messages
    DROP COLUMN callback_due_at,
    DROP COLUMN callback_error,
    DROP COLUMN callback_attempts;
DROP INDEX outbox.messages_finished;
DROP INDEX outbox.messages_suspect;
DROP INDEX outbox.messages_retrying;
DROP TABLE outbox.destinations;
