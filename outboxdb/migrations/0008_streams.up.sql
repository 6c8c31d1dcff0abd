SELECT pg_catalog.set_config('outflow.search_path', pg_catalog.current_setting('search_path'), false), pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);

-- Streams: a run that delivers the backlog of one destination, in pages of claimed rows. A row here is
-- what an operator set for a destination, and how its stream goes.
CREATE TABLE outbox.streams (
    destination  text        COLLATE "C" NOT NULL PRIMARY KEY,
    above        integer,
    runs_until   timestamptz,
    paused       boolean     NOT NULL DEFAULT false,
    started_at   timestamptz,
    delivered    bigint      NOT NULL DEFAULT 0,
    dead         bigint      NOT NULL DEFAULT 0,
    handed_over  bigint      NOT NULL DEFAULT 0,
    per_second   integer     NOT NULL DEFAULT 0,
    ended_at     timestamptz,
    ended        text,
    not_before   timestamptz,
    CONSTRAINT streams_destination CHECK (outbox.is_destination(destination)),
    CONSTRAINT streams_above       CHECK (above >= 0)
) WITH (fillfactor = 50);
COMMENT ON TABLE outbox.streams IS 'Outflow: streams of destinations, running or not, and their settings';
COMMENT ON COLUMN outbox.streams.above IS 'starters begin a stream above so many due messages; 0: never; NULL: as their own setting says';
COMMENT ON COLUMN outbox.streams.runs_until IS 'a stream runs: starters leave messages that nobody has claimed to it until then';
COMMENT ON COLUMN outbox.streams.paused IS 'somebody paused its activity';
COMMENT ON COLUMN outbox.streams.ended IS 'why the last stream ended';
COMMENT ON COLUMN outbox.streams.not_before IS 'starters begin no stream before: the last one could not go on';

-- The pages that streams have claimed and not finished. The rows of a page have its "at" as their
-- available_at, which is a day away. The page is their lease: while it stands, nobody else claims them.
CREATE TABLE outbox.pages (
    destination text        COLLATE "C" NOT NULL,
    at          timestamptz NOT NULL,
    holder      uuid        NOT NULL,
    messages    integer     NOT NULL,
    claimed_at  timestamptz NOT NULL DEFAULT now(),
    overdue_at  timestamptz,
    PRIMARY KEY (destination, at)
) WITH (fillfactor = 50);
COMMENT ON TABLE outbox.pages IS 'Outflow: pages of messages that streams have in hand';
COMMENT ON COLUMN outbox.pages.holder IS 'the claim; the stream that has the page in hand knows it';
COMMENT ON COLUMN outbox.pages.overdue_at IS 'when it was first seen that its holder may be gone; a while later the page is given up';

REVOKE ALL ON outbox.streams, outbox.pages FROM PUBLIC;

SELECT pg_catalog.set_config('search_path', pg_catalog.current_setting('outflow.search_path'), false);
