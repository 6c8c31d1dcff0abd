DROP TABLE outbox.messages;
DROP FUNCTION outbox.is_destination(text);
