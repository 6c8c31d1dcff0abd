BEGIN;
INSERT INTO users (name) VALUES (:'name') RETURNING id \gset
SELECT outbox.enqueue('sqs://registrations', 'user-registered', jsonb_build_object('id', :id, 'name', :'name'));
COMMIT;
