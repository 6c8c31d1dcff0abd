DROP TABLE outbox.identity;
