CREATE FUNCTION announce_user() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM outbox.enqueue('sqs://welcome-email', 'user-registered', to_jsonb(NEW));
    RETURN NULL;
END $$;
CREATE TRIGGER announce_user AFTER INSERT ON users FOR EACH ROW EXECUTE FUNCTION announce_user();
