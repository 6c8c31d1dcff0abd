DROP FUNCTION outbox.outcomes(uuid[]);
DROP FUNCTION outbox.drop_waiter(uuid);
DROP FUNCTION outbox.keep_waiter(uuid);
DROP FUNCTION outbox.tell_waiters(uuid[]);
DROP TABLE outbox.waiters;
