DROP FUNCTION outbox.enqueue(text, text, bytea, text, jsonb, text, uuid, timestamptz, interval, timestamptz, interval, boolean, text, boolean);
DROP FUNCTION outbox.enqueue(text, text, text, text, jsonb, text, uuid, timestamptz, interval, timestamptz, interval, boolean, text, boolean);
DROP FUNCTION outbox.enqueue_batch(jsonb, boolean);
DROP TABLE outbox.callback_rules;
DROP FUNCTION outbox.object_refusal(jsonb);
DROP FUNCTION outbox.refusal(outbox.messages);
DROP FUNCTION outbox.headers_refusal(jsonb);
DROP FUNCTION outbox.new_id();
