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
-- RabbitMQ's and Temporal's percent-encoded bytes only UTF-8, no control characters,
-- and none that need no encoding. An address has its host in lower case, no default port, and
-- a path; it is not the URL of a queue, nor looks like one. Plain http is for
-- development: its hosts are this machine alone, in one spelling each. A later version may
-- accept more, and never less: a stored row that it refuses could not be updated any more.
-- In PL/pgSQL: an expression in SQL would be part of every statement that writes to the table, and
-- preparing it, twice, takes three times as long as the rest of a small update.
CREATE FUNCTION outbox.is_destination(destination text) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $$
BEGIN
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
        WHEN 'temporal' THEN
            destination ~ '^temporal://[^/?&=]+/[^/?&=]+(\?(existing=use(&namespace=[^/?&=]+)?|namespace=[^/?&=]+(&signal=[^/?&=]+)?|signal=[^/?&=]+))?$'
            AND destination ~ ('^temporal:([/?&=A-Za-z0-9._~$:@-]|%2[0-35-9ABCF]|%3[B-F]|%5[B-E]|%60|%7[B-D]'
                || '|%(C2%[AB]|(C[3-9A-F]|D[0-9A-F])%[89AB])[0-9A-F]'
                || '|%(E0%[AB]|ED%[89]|E[1-9ABCEF]%[89AB])[0-9A-F]%[89AB][0-9A-F]'
                || '|%(F0%[9AB]|F[1-3]%[89AB]|F4%8)[0-9A-F]%[89AB][0-9A-F]%[89AB][0-9A-F])*$')
        WHEN 'https' THEN
            destination ~ ('^https://([a-z0-9_]+((\.|-+)[a-z0-9_]+)*|\[::1\])(:([1-9][0-9]?[0-9]?[0-9]?|[1-5][0-9][0-9][0-9][0-9]|6[0-4][0-9][0-9][0-9]|65[0-4][0-9][0-9]|655[0-2][0-9]|6553[0-5]))?'
                || '/([A-Za-z0-9._~:/?@!$&''()*+,;=-]|\[|\]|%[0-9A-Fa-f][0-9A-Fa-f])*$')
            -- What few hosts end in: the default port, a number, a name of SQS. Looked at
            -- where there is a sign of it only, for each expression costs microseconds.
            AND ((strpos('0123456789', right(split_part(destination, '/', 3), 1)) = 0
                    AND strpos(destination, 'sqs') = 0 AND strpos(destination, 'queue.') = 0 AND strpos(destination, '0x') = 0)
                OR split_part(destination, '/', 3) !~ ('(:443|(^|\.)([0-9]+|0x[0-9a-f]*|(queue|sqs(-fips)?(\.[a-z0-9-]+)?(\.vpce)?)\.(amazonaws\.com(\.cn)?|amazonaws\.eu|api\.aws|api\.amazonwebservices\.(com\.cn|eu)|c2s\.ic\.gov|sc2s\.sgov\.gov'
                || '|cloud\.adc-e\.uk|csp\.hci\.ic\.gov|api\.aws(\.hci)?\.ic\.gov|api\.aws\.scloud|api\.cloud-aws\.adc-e\.uk))(:[0-9]+)?)$')
                OR (right(split_part(destination, '/', 3), 4) <> ':443'
                    AND split_part(destination, '/', 3) ~ '^(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])(\.(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9]))(\.(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9]))(\.(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9]))(:[0-9]+)?$'))
            AND (octet_length(split_part(destination, '/', 3)) <= 63
                OR (octet_length(split_part(split_part(destination, '/', 3), ':', 1)) <= 253
                    AND split_part(split_part(destination, '/', 3), ':', 1) !~ '[^.]{64}'))
            -- An emulator's queue: by its path, and either by its host or by the region.
            AND (destination !~ '^https://[^/]*/+(queue/+[^/?]+/+)?[0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9]/+[^/?]+/*(\?|$)'
                OR (split_part(destination, '/', 3) !~ '^(127\.[0-9.]+|\[::1\]|([a-z0-9_.-]+\.)?(localhost|localstack\.cloud))(:[0-9]+)?$'
                    AND destination !~ '^https://(sqs\.[a-z][a-z][a-z]?[a-z]?(-[a-z]+)+-[0-9][0-9]?\.|[a-z][a-z][a-z]?[a-z]?(-[a-z]+)+-[0-9][0-9]?\.(queue|goaws|localhost)[.:/])'
                    AND destination !~ '^https://[^/]*/+queue/+[a-z][a-z][a-z]?[a-z]?(-[a-z]+)+-[0-9][0-9]?/'))
        WHEN 'http' THEN
            destination ~ ('^http://(localhost|127(\.(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9]))(\.(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9]))(\.(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9]))|\[::1\])(:([1-9][0-9]?[0-9]?[0-9]?|[1-5][0-9][0-9][0-9][0-9]|6[0-4][0-9][0-9][0-9]|65[0-4][0-9][0-9]|655[0-2][0-9]|6553[0-5]))?'
                || '/([A-Za-z0-9._~:/?@!$&''()*+,;=-]|\[|\]|%[0-9A-Fa-f][0-9A-Fa-f])*$')
            AND split_part(destination, '/', 3) !~ ':80$'
            AND destination !~ '^http://[^/]*/+(queue/+[^/?]+/+)?[0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9]/+[^/?]+/*(\?|$)'
        -- For a publisher of somebody's own.
        ELSE destination ~ '^x(-[a-z0-9]+)+://[!"$-~]+$' AND octet_length(split_part(destination, '://', 1)) <= 32 END;
END $$;

-- The parts of an https or http URL: scheme, host in lower case, port (none where it
-- is the scheme's own), path with query. NULL where it is none.
CREATE FUNCTION outbox.split_address(destination text) RETURNS text[]
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $$
DECLARE
    part text[] := regexp_match(destination, '^(https?)://(\[[^]/?#]*\]|[^:/?#@]+)(:([^/?#@]*))?([/?][^#]*)?$');
BEGIN
    IF part IS NULL OR destination ~ '[^!-~]' OR (part[3] <> '' AND part[4] !~ '^([1-9][0-9]?[0-9]?[0-9]?|[1-5][0-9][0-9][0-9][0-9]|6[0-4][0-9][0-9][0-9]|65[0-4][0-9][0-9]|655[0-2][0-9]|6553[0-5])$') THEN
        RETURN NULL;
    END IF;
    RETURN ARRAY[part[1], lower(part[2] COLLATE "C"),
        CASE WHEN (part[1], part[4]) IN (('https', '443'), ('http', '80')) THEN '' ELSE coalesce(part[4], '') END,
        CASE WHEN part[5] LIKE '/%' THEN part[5] ELSE '/' || coalesce(part[5], '') END];
END $$;

-- Whether a host is a name of labels, or an IPv4 address in one spelling.
CREATE FUNCTION outbox.is_host(host text) RETURNS boolean
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN octet_length(host) <= 253 AND host ~ '^[a-z0-9_]+((\.|-+)[a-z0-9_]+)*$' AND host !~ '[^.]{64}'
        AND (host !~ '(^|\.)([0-9]+|0x[0-9a-f]*)$'
            OR host ~ '^(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])(\.(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9]))(\.(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9]))(\.(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9]))$');

-- The queue whose URL an address is, as region, account and name; NULL where it is
-- none. Where it looks like a queue's and can't be read, the name is NULL, and the
-- region says why: 'url', 'region' or 'regions'. See destination_queue_url.go for the forms.
CREATE FUNCTION outbox.queue_of(a text[]) RETURNS text[]
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $$
DECLARE
    suffix CONSTANT text := '(?:amazonaws\.com(?:\.cn)?|amazonaws\.eu|api\.aws|api\.amazonwebservices\.(?:com\.cn|eu)|c2s\.ic\.gov|sc2s\.sgov\.gov'
        || '|cloud\.adc-e\.uk|csp\.hci\.ic\.gov|api\.aws(?:\.hci)?\.ic\.gov|api\.aws\.scloud|api\.cloud-aws\.adc-e\.uk)$';
    region CONSTANT text := '[a-z][a-z][a-z]?[a-z]?(?:-[a-z]+)+-[0-9][0-9]?';
    host text[];
    path text[];
    named text;
BEGIN
    IF a[2] ~ ('(?:^|\.)(?:queue|sqs(?:-fips)?(?:\.[a-z0-9-]+)?(?:\.vpce)?)\.' || suffix) THEN
        host := CASE a[2] WHEN 'queue.amazonaws.com' THEN ARRAY['us-east-1']
            ELSE regexp_match(a[2], '^(?:sqs(?:-fips)?\.([a-z0-9-]+)|[a-z0-9-]+\.sqs(?:-fips)?\.([a-z0-9-]+)\.vpce|([a-z0-9-]+)\.queue)\.' || suffix) END;
        path := regexp_match(a[4], '^/([0-9]{12})/([^/?]+)/?$');
        IF host IS NULL OR path IS NULL OR a[3] NOT IN ('', '443', '80') THEN
            RETURN ARRAY['url', NULL, NULL];
        END IF;
        RETURN ARRAY[coalesce(host[1], host[2], host[3]), path[1], path[2]];
    END IF;
    host := regexp_match(a[2], '^(?:sqs\.(' || region || ')\.|(' || region || ')\.(?:queue|goaws|localhost)(?:\.|$))');
    named := coalesce(host[1], host[2], '');
    IF a[4] !~ '^/+(queue/+[^/?]+/+)?[0-9]{12}/+[^/?]+/*(\?|$)' OR a[2] ~ '^\[' AND a[2] !~ '^\[[0-9a-f:]+\]$'
        OR NOT (a[1] = 'http' OR named <> '' OR a[4] ~ ('^/+queue/+' || region || '/')
            OR a[2] ~ '^(127\.[0-9.]+|\[::1\]|([a-z0-9_.-]+\.)?(localhost|localstack\.cloud))$') THEN
        RETURN NULL;
    END IF;
    path := regexp_match(a[4], '^/(?:queue/([^/?]+)/)?([0-9]{12})/([^/?]+)/?$');
    RETURN CASE
        WHEN path IS NULL THEN ARRAY['url', NULL, NULL]
        WHEN named = '' AND a[2] ~ '^(sqs\.[^.]+|[^.]+\.queue)\.localhost(\.localstack\.cloud)?$' THEN ARRAY['region', NULL, NULL]
        WHEN named <> '' AND path[1] <> named THEN ARRAY['regions', NULL, NULL]
        ELSE ARRAY[coalesce(nullif(named, ''), path[1], ''), path[2], path[3]] END;
END $$;

-- Why scheme, region, account and name are no queue or topic of AWS, or NULL.
CREATE FUNCTION outbox.aws_refusal(d text[]) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $$
BEGIN
    RETURN CASE
        WHEN octet_length(d[4]) > CASE d[1] WHEN 'sns' THEN 256 ELSE 80 END OR d[4] !~ '^[A-Za-z0-9_-]+(\.fifo)?$' THEN
            format('a name in %s has 1 to %s letters, digits, _ or -, and may end in .fifo', d[1], CASE d[1] WHEN 'sns' THEN 256 ELSE 80 END)
        WHEN d[2] <> '' AND d[2] !~ '^[a-z][a-z][a-z]?[a-z]?(-[a-z]+)+-[0-9][0-9]?$' THEN 'region wants a form like eu-west-1'
        WHEN d[3] <> '' AND d[3] !~ '^[0-9]{12}$' THEN 'account wants 12 digits' END;
END $$;

-- A part of a temporal or rabbitmq destination with its percent-encoding in one form, or
-- NULL where it is empty, no UTF-8, or has control characters. Letters, digits, a few other
-- characters and those of others stand for themselves.
CREATE FUNCTION outbox.canonical_name(part text, others text DEFAULT '') RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $$
DECLARE
    bare  CONSTANT text := '[' || others || 'A-Za-z0-9._~$:@-]';
    names CONSTANT text := '^(' || bare || '|%[2-6][0-9A-F]|%7[0-9A-E]'
        || '|%(C2%[AB]|(C[3-9A-F]|D[0-9A-F])%[89AB])[0-9A-F]'
        || '|%(E0%[AB]|ED%[89]|E[1-9ABCEF]%[89AB])[0-9A-F]%[89AB][0-9A-F]'
        || '|%(F0%[9AB]|F[1-3]%[89AB]|F4%8)[0-9A-F]%[89AB][0-9A-F]%[89AB][0-9A-F])+$';
    canonical text;
BEGIN
    IF part ~ ('^' || bare || '+$') THEN
        RETURN part;
    ELSIF part ~ '%([^0-9A-Fa-f]|[0-9A-Fa-f][^0-9A-Fa-f]|[0-9A-Fa-f]?$)' THEN
        RETURN NULL;
    END IF;
    SELECT string_agg(CASE
            WHEN code BETWEEN 33 AND 126 AND chr(code) ~ ('^' || bare || '$') THEN chr(code)
            WHEN code IS NOT NULL THEN upper(token COLLATE "C")
            WHEN token ~ ('^' || bare || '$') THEN token
            ELSE regexp_replace(upper(encode(convert_to(token, 'UTF8'), 'hex') COLLATE "C"), '(..)', '%\1', 'g') END, '' ORDER BY place)
      INTO canonical
      FROM (SELECT m[1] AS token, place, CASE WHEN length(m[1]) = 3 THEN ('x' || right(m[1], 2))::bit(8)::integer END AS code
              FROM regexp_matches(part, '%..|.', 'g') WITH ORDINALITY AS r (m, place)) AS t;
    RETURN CASE WHEN canonical ~ names THEN canonical END;
END $$;

-- Why the rest of a temporal destination, behind the scheme, can't be read, or NULL.
CREATE FUNCTION outbox.workflow_refusal(rest text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $$
DECLARE
    path      text := split_part(rest, '?', 1);
    parameter text;
    key       text;
    given     text;
    keys      text[] := '{}';
BEGIN
    IF strpos(rest, '#') > 0 OR path !~ '^[^/]*/[^/]*$' THEN
        RETURN 'temporal wants task-queue/WorkflowType, each percent-encoded, and no fragment';
    ELSIF outbox.canonical_name(split_part(path, '/', 1)) IS NULL OR outbox.canonical_name(split_part(path, '/', 2)) IS NULL THEN
        RETURN 'temporal''s task queue and workflow type want UTF-8 of one character or more each, percent-encoded, without control characters';
    ELSIF strpos(rest, '?') = 0 THEN
        RETURN NULL;
    END IF;
    FOREACH parameter IN ARRAY coalesce(nullif(string_to_array(substr(rest, length(path) + 2), '&'), '{}'), ARRAY['']) LOOP
        key := split_part(parameter, '=', 1);
        given := substr(parameter, length(key) + 2);
        IF key NOT IN ('namespace', 'signal', 'existing') THEN
            RETURN format('unknown parameter%s; known are namespace, signal and existing', CASE WHEN key ~ '^[A-Za-z0-9_.+-]{1,40}$' THEN format(' "%s"', key) END);
        ELSIF given = '' OR key = ANY (keys) THEN
            RETURN format('parameter %s wants one value', key);
        ELSIF strpos(given, '+') > 0 OR outbox.canonical_name(given) IS NULL THEN
            RETURN format('parameter %s wants UTF-8, percent-encoded, without control characters, and %%2B for a plus sign', key);
        ELSIF key = 'existing' AND outbox.canonical_name(given) <> 'use' THEN
            RETURN 'parameter existing wants use';
        END IF;
        keys := keys || key;
    END LOOP;
    IF keys @> ARRAY['existing', 'signal'] THEN
        RETURN 'parameter existing wants no signal beside it: a signal goes to the run that is there';
    END IF;
    RETURN NULL;
END $$;

-- The canonical form of the rest of a temporal destination that workflow_refusal accepts.
CREATE FUNCTION outbox.canonical_workflow(rest text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN 'temporal://' || outbox.canonical_name(split_part(split_part(rest, '?', 1), '/', 1))
        || '/' || outbox.canonical_name(split_part(split_part(rest, '?', 1), '/', 2))
        || coalesce('?' || (SELECT string_agg(split_part(p, '=', 1) || '=' || outbox.canonical_name(substr(p, strpos(p, '=') + 1)), '&' ORDER BY p COLLATE "C")
                              FROM unnest(string_to_array(substring(rest FROM '^[^?]*\?(.*)$'), '&')) AS p), '');

-- A queue URL or an ARN as pasted becomes the canonical destination, and so does an
-- address whose host is in capitals, or that has the default port or no path, a workflow
-- whose parameters or percent-encoding have another form, and an exchange likewise.
-- Anything else stays as it is, for is_destination to judge. It reads no table, and
-- runs as the owner so that its caller needs no right on what it calls.
CREATE FUNCTION outbox.canonical_destination(destination text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $$
DECLARE
    part      text[];
    a         text[];
    canonical text;
BEGIN
    IF octet_length(destination) > 2000 THEN
        RETURN destination;
    ELSIF destination LIKE 'http%' THEN
        a := outbox.split_address(destination);
        part := outbox.queue_of(a);
        IF a IS NULL OR NOT (outbox.is_host(a[2]) OR a[2] LIKE '[%') OR (part IS NOT NULL AND part[3] IS NULL) THEN
            RETURN destination;
        ELSIF part IS NULL THEN
            canonical := a[1] || '://' || a[2] || CASE WHEN a[3] = '' THEN '' ELSE ':' || a[3] END || a[4];
            RETURN CASE WHEN octet_length(canonical) > 2000 THEN destination ELSE canonical END;
        END IF;
        part := ARRAY['sqs'] || part;
    ELSIF destination LIKE 'temporal://%' THEN
        RETURN CASE WHEN outbox.is_destination(destination) OR outbox.workflow_refusal(substr(destination, 12)) IS NOT NULL THEN destination
            ELSE outbox.canonical_workflow(substr(destination, 12)) END;
    ELSIF destination LIKE 'rabbitmq://%' THEN
        IF outbox.is_destination(destination) OR destination !~ '^rabbitmq://[^/?#]*/[^?#]*$' THEN
            RETURN destination;
        END IF;
        part := regexp_match(destination, '^rabbitmq://([^/]*)/(.*)$');
        RETURN coalesce('rabbitmq://' || CASE WHEN part[1] = '' THEN '' ELSE outbox.canonical_name(part[1], '&+=') END
            || '/' || CASE WHEN part[2] = '' THEN '' ELSE outbox.canonical_name(part[2], '&+=') END, destination);
    ELSIF destination LIKE 'arn:%' THEN
        part := regexp_match(destination, '^arn:aws[a-z-]*:(sqs|sns):([^:]*):([^:]*):([^:]*)$');
    ELSE
        part := regexp_match(destination, '^(sqs|sns)://([^?]*)\?region=([^&=?]+)&account=([^&=?]+)$');
        part := CASE WHEN part IS NOT NULL THEN ARRAY[part[1], part[3], part[4], part[2]] END;
    END IF;
    IF part IS NULL OR outbox.aws_refusal(part) IS NOT NULL THEN
        RETURN destination;
    END IF;
    RETURN part[1] || '://' || part[4]
        || CASE WHEN part[3] <> '' AND part[2] <> '' THEN '?account=' || part[3] || '&region=' || part[2]
                WHEN part[3] <> '' THEN '?account=' || part[3]
                WHEN part[2] <> '' THEN '?region=' || part[2]
                ELSE '' END;
END $$;

-- A destination as errors show it: of an address no query, fragment or user name,
-- because they often hold a secret. outflow.DisplayDestination does the same.
CREATE FUNCTION outbox.display_destination(destination text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN CASE WHEN destination ~* '^(sqs|sns|rabbitmq|temporal|arn):' THEN destination
        ELSE regexp_replace(regexp_replace(destination, '[?#].*$', ''), '^(((?!//).)*//)[^/]*@', '\1') END;

-- A guess at what was meant, short and printable, or nothing.
CREATE FUNCTION outbox.did_you_mean(destination text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $$
BEGIN
    destination := outbox.display_destination(destination);
    RETURN CASE WHEN octet_length(destination) > 100 OR destination ~ '[^!-~]' THEN '' ELSE format(' (did you mean %s?)', destination) END;
END $$;

-- Why is_destination says no, in the words of outflow.ParseDestination.
CREATE FUNCTION outbox.destination_refusal(destination text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $$
DECLARE
    arn    text[] := regexp_match(destination, '^arn:aws[a-z-]*:(sqs|sns):([^:]*):([^:]*):([^:]*)$');
    scheme text := split_part(destination, '://', 1);
    rest   text := substr(destination, length(scheme) + 4);
BEGIN
    IF octet_length(destination) > 2000 THEN
        RETURN 'longer than 2000 bytes';
    ELSIF arn IS NOT NULL THEN
        RETURN outbox.aws_refusal(arn);
    ELSIF destination IS NULL OR strpos(destination, '://') = 0 THEN
        RETURN CASE
            WHEN destination LIKE 'arn:%' THEN 'an ARN wants arn:aws:sqs:REGION:ACCOUNT:QUEUE or arn:aws:sns:REGION:ACCOUNT:TOPIC'
                || coalesce(outbox.did_you_mean(substring(destination FROM '^(arn:aws[a-z-]*:sns:[^:]*:[^:]*:[^:]+):[^:]+$')), '')
            WHEN destination ~ '^(sqs|sns|rabbitmq|temporal|https|http)(:/*|//+)([^/]|$)' THEN
                'a scheme ends in "://"' || outbox.did_you_mean(regexp_replace(destination, '^([a-z]+)[:/]+', '\1://'))
            WHEN destination ~ '^[A-Za-z0-9_-]+(\.fifo)?$' THEN 'no scheme' || outbox.did_you_mean('sqs://' || destination)
            WHEN destination ~ '^(localhost|127\.[0-9.]+)(:[0-9]+)?([/?]|$)' THEN 'no scheme' || outbox.did_you_mean('http://' || destination)
            WHEN destination ~ '^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+(:[0-9]+)?([/?]|$)' THEN 'no scheme' || outbox.did_you_mean('https://' || destination)
            ELSE 'no scheme' END;
    ELSIF scheme IN ('sqs', 'sns') THEN
        RETURN outbox.parameter_refusal(scheme, rest);
    ELSIF scheme = 'rabbitmq' THEN
        RETURN CASE
            WHEN strpos(rest, '/') = 0 OR rest ~ '[?#]' THEN 'rabbitmq wants exchange/routing-key, percent-encoded, and no query'
            WHEN rest = '/' THEN 'rabbitmq''s default exchange wants a routing key'
            ELSE 'rabbitmq''s exchange and routing key want at most 255 bytes of UTF-8 each, percent-encoded, without control characters' END;
    ELSIF scheme = 'temporal' THEN
        RETURN outbox.workflow_refusal(rest);
    ELSIF scheme IN ('https', 'http') THEN
        RETURN outbox.address_refusal(scheme, rest, destination);
    ELSIF scheme LIKE 'x-%' THEN
        RETURN 'a scheme of your own wants x- and up to 30 lower-case letters, digits and inner hyphens, '
            'and behind it printable ASCII characters without #';
    END IF;
    RETURN CASE
        WHEN lower(scheme COLLATE "C") IN ('sqs', 'sns', 'rabbitmq', 'temporal', 'https', 'http') THEN
            'a scheme is in lower case' || outbox.did_you_mean(lower(scheme COLLATE "C") || '://' || rest)
        WHEN lower(scheme COLLATE "C") IN ('amqp', 'amqps', 'rabbit') THEN format('unknown scheme "%s" (did you mean rabbitmq://exchange/routing-key?)', scheme)
        WHEN scheme ~ '^[A-Za-z0-9_.+-]{1,40}$' THEN format('unknown scheme "%s"', scheme)
        ELSE 'unknown scheme' END;
END $$;

CREATE FUNCTION outbox.parameter_refusal(scheme text, rest text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $$
DECLARE
    name      text := split_part(rest, '?', 1);
    parameter text;
    key       text;
    given     text;
    region    text := '';
    account   text := '';
BEGIN
    IF strpos(rest, '?') > 0 THEN
        FOREACH parameter IN ARRAY coalesce(nullif(string_to_array(substr(rest, length(name) + 2), '&'), '{}'), ARRAY['']) LOOP
            key := split_part(parameter, '=', 1);
            given := substr(parameter, length(key) + 2);
            IF key NOT IN ('region', 'account') THEN
                RETURN format('unknown parameter%s; known are region and account', CASE WHEN key ~ '^[A-Za-z0-9_.+-]{1,40}$' THEN format(' "%s"', key) END);
            ELSIF given = '' OR (CASE key WHEN 'region' THEN region ELSE account END) <> '' THEN
                RETURN format('parameter %s wants one value', key);
            ELSIF key = 'region' THEN
                region := given;
            ELSE
                account := given;
            END IF;
        END LOOP;
    END IF;
    RETURN outbox.aws_refusal(ARRAY[scheme, region, account, name]);
END $$;

CREATE FUNCTION outbox.address_refusal(scheme text, rest text, destination text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $$
DECLARE
    authority text := substring(rest FROM '^[^/?#]*');
    part      text[] := regexp_match(authority, '^(\[[^]]*\]|[^:]*)(:(.*))?$');
    a         text[] := outbox.split_address(destination);
    queue     text[] := outbox.queue_of(a);
BEGIN
    RETURN CASE
        WHEN rest ~ '[^!-~]' THEN format('an %s address has printable ASCII characters only; percent-encode the others', scheme)
        WHEN strpos(rest, '#') > 0 THEN 'an address wants no fragment'
        WHEN strpos(authority, '@') > 0 THEN 'an address wants no user name or password'
        WHEN part[1] = '' THEN 'an address wants a host'
        WHEN part[2] <> '' AND part[3] !~ '^([1-9][0-9]?[0-9]?[0-9]?|[1-5][0-9][0-9][0-9][0-9]|6[0-4][0-9][0-9][0-9]|65[0-4][0-9][0-9]|655[0-2][0-9]|6553[0-5])$' THEN
            'a port wants a number from 1 to 65535, without zeros before it'
        WHEN a[2] NOT LIKE '[%' AND NOT outbox.is_host(a[2]) THEN
            CASE WHEN octet_length(a[2]) > 253 OR a[2] !~ '^[a-z0-9_]+((\.|-+)[a-z0-9_]+)*$' OR a[2] ~ '[^.]{64}'
                THEN 'a host wants labels of 1 to 63 letters, digits, _ and inner hyphens, 253 characters in all, and no dot at its end'
                ELSE 'a host that ends in a number wants to be an IPv4 address: four numbers from 0 to 255, without zeros before them' END
        WHEN queue[1] = 'region' AND queue[3] IS NULL THEN 'region wants a form like eu-west-1'
        WHEN queue[1] = 'regions' AND queue[3] IS NULL THEN 'a queue''s URL wants one region, and its host and path name two'
        WHEN queue IS NOT NULL AND queue[3] IS NULL THEN
            'it looks like an SQS queue''s URL, which wants /ACCOUNT/QUEUE, with 12 digits and no query, '
            'on port 443 or 80 of a host such as sqs.eu-west-1.amazonaws.com, or on an emulator; sqs://QUEUE?account=ACCOUNT&region=REGION is the same'
        WHEN queue IS NOT NULL THEN outbox.aws_refusal(ARRAY['sqs'] || queue)
        WHEN scheme = 'http' AND a[2] !~ '^(localhost|127(\.(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9]))(\.(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9]))(\.(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9]))|\[::1\])$' THEN
            'plain http is for localhost, 127.0.0.0/8 and [::1] alone; others want https'
        WHEN a[2] LIKE '[%' AND a[2] <> '[::1]' THEN 'of IPv6 addresses only [::1] can be a host; give the others a name'
        WHEN a[4] ~ '^([A-Za-z0-9._~:/?@!$&''()*+,;=-]|\[|\]|%[0-9A-Fa-f][0-9A-Fa-f])*$' THEN 'longer than 2000 bytes'
        ELSE 'path and query want each character that RFC 3986 does not allow there percent-encoded' END;
END $$;

REVOKE ALL ON SCHEMA outbox FROM PUBLIC;

SELECT pg_catalog.set_config('search_path', pg_catalog.current_setting('outflow.search_path'), false);
