SELECT pg_catalog.set_config('outflow.search_path', pg_catalog.current_setting('search_path'), false), pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);

-- The schema, and what a destination is. Plain SQL: any migration tool can apply
-- these files in their order, each inside a transaction.

-- CREATE SCHEMA IF NOT EXISTS asks for a right on the database even where the
-- schema is there already, made by somebody who has it.
DO $$ BEGIN
    IF to_regnamespace('outbox') IS NULL THEN
        CREATE SCHEMA outbox;
    END IF;
END $$;

-- Whether a destination is in canonical form. Used by the table, whose every
-- update runs it, and by enqueue. Lengths are compared outside of the patterns:
-- counted repetitions and look-ahead make Postgres's expressions many times slower.
-- What it accepts, outflow.ParseDestination reads and writes back as it is: so of
-- RabbitMQ's percent-encoded bytes only UTF-8, no control characters, and none
-- that need no encoding; and no queue URL, which means the queue. Plain http is
-- for development: its hosts are this machine alone, in one spelling each.
CREATE FUNCTION outbox.is_destination(destination text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN octet_length(destination) <= 2000 AND CASE split_part(destination, '://', 1)
        WHEN 'sqs' THEN length(split_part(substr(destination, 7), '?', 1)) <= 80
            AND destination ~ '^sqs://[A-Za-z0-9_-]+(\.fifo)?(\?account=[0-9]{12}(&region=[a-z][a-z][a-z]?[a-z]?(-[a-z]+)+-[0-9][0-9]?)?|\?region=[a-z][a-z][a-z]?[a-z]?(-[a-z]+)+-[0-9][0-9]?)?$'
        WHEN 'sns' THEN length(split_part(substr(destination, 7), '?', 1)) <= 256
            AND destination ~ '^sns://[A-Za-z0-9_-]+(\.fifo)?(\?account=[0-9]{12}(&region=[a-z][a-z][a-z]?[a-z]?(-[a-z]+)+-[0-9][0-9]?)?|\?region=[a-z][a-z][a-z]?[a-z]?(-[a-z]+)+-[0-9][0-9]?)?$'
        WHEN 'rabbitmq' THEN destination <> 'rabbitmq:///' AND cardinality(string_to_array(destination, '/')) = 4
            AND octet_length(regexp_replace(split_part(destination, '/', 3), '%..', '.', 'g')) <= 255
            AND octet_length(regexp_replace(split_part(destination, '/', 4), '%..', '.', 'g')) <= 255
            AND destination ~ ('^rabbitmq:([/A-Za-z0-9._~$&+=:@-]|%2[0-35789ACF]|%3[BCEF]|%5[B-E]|%60|%7[B-D]'
                || '|%(C2%[AB]|(C[3-9A-F]|D[0-9A-F])%[89AB])[0-9A-F]'
                || '|%(E0%[AB]|ED%[89]|E[1-9ABCEF]%[89AB])[0-9A-F]%[89AB][0-9A-F]'
                || '|%(F0%[9AB]|F[1-3]%[89AB]|F4%8)[0-9A-F]%[89AB][0-9A-F]%[89AB][0-9A-F])*$')
        WHEN 'https' THEN
            destination ~ '^https://[A-Za-z0-9._~-]+(:[0-9]+)?([/?]([A-Za-z0-9._~:/?@!$&''()*+,;=-]|\[|\]|%[0-9A-Fa-f][0-9A-Fa-f])*)?$'
            AND destination !~ '^https://(sqs\.[a-z0-9-]+|[a-z0-9-]+\.sqs\.[a-z0-9-]+\.vpce|[a-z0-9-]+\.queue)\.amazonaws\.com(\.cn)?/[0-9]{12}/[^/?#]+$'
        WHEN 'http' THEN
            destination ~ ('^http://(localhost|127(\.(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])){3}|\[::1\])'
                || '(:[0-9]+)?([/?]([A-Za-z0-9._~:/?@!$&''()*+,;=-]|\[|\]|%[0-9A-Fa-f][0-9A-Fa-f])*)?$')
            AND destination !~ '^http://[^/?#@]+/[0-9]{12}/[^/?#]+$'
        ELSE false END;

-- A queue URL or an ARN as pasted becomes the canonical destination; anything
-- else stays as it is, for is_destination to judge.
CREATE FUNCTION outbox.canonical_destination(destination text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $$
DECLARE
    part text[];
BEGIN
    part := regexp_match(destination, '^arn:aws[a-z-]*:(sqs|sns):([^:]*):([^:]*):([^:]*)$');
    IF part IS NULL THEN
        part := regexp_match(destination,
            '^https://(?:sqs\.([a-z0-9-]+)|[a-z0-9-]+\.sqs\.([a-z0-9-]+)\.vpce|([a-z0-9-]+)\.queue)\.amazonaws\.com(?:\.cn)?/([0-9]{12})/([^/?#]+)$');
        IF part IS NOT NULL THEN
            part := ARRAY['sqs', coalesce(part[1], part[2], part[3]), part[4], part[5]];
        END IF;
    END IF;
    IF part IS NULL THEN
        -- Emulators answer on any host, this machine among them, and their queue URLs
        -- name no region. A receiver's address is not to look like one.
        part := regexp_match(destination, '^http://[^/?#@]+/([0-9]{12})/([^/?#]+)$');
        IF part IS NOT NULL THEN
            part := ARRAY['sqs', '', part[1], part[2]];
        END IF;
    END IF;
    IF part IS NULL THEN
        part := regexp_match(destination, '^(sqs|sns)://([^?]*)\?region=([^&=?]+)&account=([^&=?]+)$');
        IF part IS NOT NULL THEN
            part := ARRAY[part[1], part[3], part[4], part[2]];
        END IF;
    END IF;
    IF part IS NULL THEN
        RETURN destination;
    END IF;
    RETURN part[1] || '://' || part[4]
        || CASE WHEN part[3] <> '' AND part[2] <> '' THEN '?account=' || part[3] || '&region=' || part[2]
                WHEN part[3] <> '' THEN '?account=' || part[3]
                WHEN part[2] <> '' THEN '?region=' || part[2]
                ELSE '' END;
END $$;

REVOKE ALL ON SCHEMA outbox FROM PUBLIC;

SELECT pg_catalog.set_config('search_path', pg_catalog.current_setting('outflow.search_path'), false);
