DROP TABLE outbox.history;
DROP TABLE outbox.audit;
