-- Which database this is: workflows carry the ID, and a worker on another database
-- refuses them. A dump without data leaves the row out; daemons write a missing one.
CREATE TABLE outbox.identity (
    id     uuid    NOT NULL,
    single boolean NOT NULL DEFAULT true PRIMARY KEY,
    CONSTRAINT identity_single CHECK (single)
);
INSERT INTO outbox.identity (id) VALUES (gen_random_uuid());

COMMENT ON TABLE outbox.identity IS 'Outflow: one row, which tells this database from every other one';

REVOKE ALL ON outbox.identity FROM PUBLIC;
