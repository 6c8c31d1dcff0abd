DROP FUNCTION outbox.canonical_destination(text);
DROP FUNCTION outbox.is_destination(text);
