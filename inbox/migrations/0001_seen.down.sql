DROP TABLE inbox.seen;
