DROP TABLE outbox.messages;
