DROP TABLE outbox.destinations;
