BEGIN;
INSERT INTO users (name) VALUES (:'name') RETURNING id \gset
SELECT outbox.enqueue('sqs://welcome-email', 'user-registered',
                      jsonb_build_object('id', :id, 'name', :'name'));
COMMIT;
