SELECT pg_catalog.set_config('outflow.search_path', pg_catalog.current_setting('search_path'), false), pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);

-- The producers' door: outbox.enqueue for one message, outbox.enqueue_batch for
-- many in one statement. Both hold the same rules, and a role needs no right on
-- the table to call them.

-- A UUIDv7 (RFC 9562): 48 bits of Unix milliseconds, version, random bits. The
-- version nibble of a random UUID is 0100; setting two more bits makes it 0111.
CREATE FUNCTION outbox.new_id() RETURNS uuid
    LANGUAGE sql VOLATILE PARALLEL SAFE
    RETURN encode(set_bit(set_bit(
        overlay(uuid_send(gen_random_uuid())
                PLACING substr(int8send(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint), 3) FROM 1),
        52, 1), 53, 1), 'hex')::uuid;

-- Why the headers are refused: 'what was wrong', or NULL where they are fine.
CREATE FUNCTION outbox.headers_refusal(headers jsonb) RETURNS text
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $$
DECLARE
    refused text;
BEGIN
    IF headers = '{}' THEN
        RETURN NULL;
    END IF;
    IF jsonb_typeof(headers) <> 'object' THEN
        RETURN 'wants a JSON object of strings';
    END IF;
    SELECT CASE
        WHEN count(*) > 64 THEN format('wants at most 64 headers (got %s)', count(*))
        WHEN count(DISTINCT lower(key COLLATE "C")) < count(*) THEN 'wants names that differ by more than upper and lower case'
        ELSE min(CASE
            WHEN length(key) > 128 OR key !~ '^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$' THEN
                format('a name wants 1 to 128 letters, digits, "_", "-" and single inner dots (got %s)', to_json(left(key, 120)))
            WHEN key ~* '^(outflow|aws\.|amazon\.)' OR lower(key) = 'content-type' THEN
                format('the name %s is taken', to_json(key))
            WHEN jsonb_typeof(value) <> 'string' THEN format('%s wants a string', to_json(key))
            WHEN octet_length(value #>> '{}') > 8192 THEN
                format('%s wants a value of at most 8192 bytes (got %s)', to_json(key), octet_length(value #>> '{}'))
        END) END
      INTO refused
      FROM jsonb_each(headers);
    RETURN refused;
END $$;

-- Why the header workflow-id, which names the workflow of a temporal destination, is
-- refused, or NULL. A Temporal on Postgres or MySQL stores 255 characters. To longer IDs,
-- and to some characters, it answers for ever as if it were down.
CREATE FUNCTION outbox.workflow_id_refusal(destination text, headers jsonb) RETURNS text
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $$
DECLARE
    id text := (SELECT value FROM jsonb_each_text(headers) WHERE lower(key COLLATE "C") = 'workflow-id');
BEGIN
    RETURN CASE
        WHEN id IS NULL AND destination ~ '[?&]signal=' THEN 'wants workflow-id, which names the workflow that the signal goes to'
        WHEN id = '' OR length(id) > 255 OR id ~ '[^ -~]' THEN format('workflow-id wants 1 to 255 printable ASCII characters (got %s)', to_json(left(id, 120))) END;
END $$;

-- Why a message is refused: 'field: what it wants', or NULL where it is fine.
-- The table's constraints say the same; this says it in words. The callback 'none'
-- is a producer's, who wants no rule's: what is written is NULL. So is the destination
-- 'routes': what is written are those of the type's routes.
CREATE FUNCTION outbox.refusal(m outbox.messages) RETURNS text
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    headers_refused text;
BEGIN
    IF m.id = '00000000-0000-0000-0000-000000000000' THEN
        RETURN 'id: wants a UUID other than the zero one';
    ELSIF m.destination IS DISTINCT FROM 'routes' AND (m.destination IS NULL OR NOT outbox.is_destination(m.destination)) THEN
        RETURN format('destination: wants sqs://queue, sns://topic, rabbitmq://exchange/routing-key, temporal://task-queue/WorkflowType, https://host/path, a queue URL or an ARN: %s (got %s)',
            outbox.destination_refusal(m.destination), coalesce(to_json(left(outbox.display_destination(left(m.destination, 2100)), 120))::text, 'nothing'));
    ELSIF m.callback IS NOT NULL AND m.callback <> 'none' AND NOT outbox.is_destination(m.callback) THEN
        RETURN format('callback: wants none, sqs://queue, sns://topic, rabbitmq://exchange/routing-key, temporal://task-queue/WorkflowType, https://host/path, a queue URL or an ARN: %s (got %s)',
            outbox.destination_refusal(m.callback), to_json(left(outbox.display_destination(left(m.callback, 2100)), 120)));
    ELSIF m.callback ~ '^temporal://.*[?&]signal=' THEN
        RETURN 'callback: wants a temporal destination without a signal: a callback names no workflow';
    ELSIF m.callback_payload AND coalesce(m.callback, 'none') = 'none' THEN
        RETURN 'callback_payload: wants a callback beside it';
    ELSIF m.type IS NULL OR length(m.type) > 200 OR m.type !~ '^[A-Za-z0-9][A-Za-z0-9._:/-]*$' THEN
        RETURN format('type: wants 1 to 200 letters, digits or any of ". _ : / -", the first a letter or digit (got %s)',
            coalesce(to_json(left(m.type, 120))::text, 'nothing'));
    ELSIF m.type ~* '^outflow[.]' THEN
        RETURN format('type: wants a beginning other than "outflow.", which is Outflow''s own: it marks callbacks (got %s)', to_json(left(m.type, 120)));
    ELSIF m.payload IS NULL OR octet_length(m.payload) NOT BETWEEN 1 AND 16777216 THEN
        RETURN format('payload: wants 1 to 16777216 bytes (got %s)', coalesce(octet_length(m.payload), 0));
    -- https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html
    ELSIF m.destination ~ '^(sqs|sns)://' AND octet_length(m.payload) > 1048576 THEN
        RETURN format('payload: wants at most 1048576 bytes for %s (got %s)', split_part(m.destination, '://', 1), octet_length(m.payload));
    ELSIF length(m.content_type) > 255 OR m.content_type ~ '[^ -~]' OR m.content_type <> btrim(m.content_type) THEN
        RETURN format('content_type: wants 1 to 255 printable ASCII characters, no space at either end (got %s)', to_json(left(m.content_type, 120)));
    ELSIF length(m.ordering_key) > 128 OR m.ordering_key !~ '^[!-~]+$' THEN
        RETURN format('ordering_key: wants 1 to 128 printable ASCII characters and no space (got %s)', to_json(left(m.ordering_key, 120)));
    ELSIF m.due_at < '2000-01-01Z' OR m.due_at >= '10000-01-01Z' THEN
        RETURN format('due_at: wants a time from the year 2000 to 9999 (got %s)', m.due_at);
    ELSIF m.expires_at <= m.due_at OR m.expires_at >= '10000-01-01Z' THEN
        RETURN format('expires_at: wants a time after due_at, before the year 10000 (got %s, due at %s)', m.expires_at, m.due_at);
    END IF;
    headers_refused := outbox.headers_refusal(m.headers);
    IF headers_refused IS NULL AND m.destination LIKE 'temporal://%' THEN
        headers_refused := outbox.workflow_id_refusal(m.destination, m.headers);
    END IF;
    RETURN 'headers: ' || headers_refused;
END $$;

-- Why an object given to enqueue_batch can't be read as a message, or NULL.
CREATE FUNCTION outbox.object_refusal(object jsonb) RETURNS text
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    unknown text;
BEGIN
    IF jsonb_typeof(object) IS DISTINCT FROM 'object' THEN
        RETURN 'message: wants a JSON object';
    END IF;
    SELECT min(key) INTO unknown FROM jsonb_object_keys(object) AS key
     WHERE key <> ALL ('{id,destination,type,payload,payload_base64,content_type,headers,ordering_key,due_at,due_in,expires_at,expires_in,callback,callback_payload}');
    RETURN CASE
        WHEN unknown IS NOT NULL THEN format('%s: no field has this name', unknown)
        WHEN object ->> 'payload' IS NOT NULL AND object ->> 'payload_base64' IS NOT NULL THEN 'payload: wants payload or payload_base64, not both'
        WHEN object ->> 'due_at' IS NOT NULL AND object ->> 'due_in' IS NOT NULL THEN 'due_in: wants due_at or due_in, not both'
        WHEN object ->> 'expires_at' IS NOT NULL AND object ->> 'expires_in' IS NOT NULL THEN 'expires_in: wants expires_at or expires_in, not both'
    END;
END $$;

-- Where the callbacks of messages go that name no callback themselves, by destination
-- and type; '' is any. enqueue_batch reads it, so that a message keeps the rule of the
-- time when it was written, whoever enqueued it. 'none' is a rule, too: an exception
-- from a wider one.
CREATE TABLE outbox.callback_rules (
    destination text    COLLATE "C" NOT NULL DEFAULT '',
    type        text    COLLATE "C" NOT NULL DEFAULT '',
    callback    text    NOT NULL,
    payload     boolean NOT NULL DEFAULT false,

    PRIMARY KEY (destination, type),
    CONSTRAINT callback_rules_destination CHECK (destination = '' OR outbox.is_destination(destination)),
    CONSTRAINT callback_rules_type        CHECK (type = '' OR (length(type) <= 200 AND type ~ '^[A-Za-z0-9][A-Za-z0-9._:/-]*$')),
    CONSTRAINT callback_rules_callback    CHECK (callback = 'none' OR (outbox.is_destination(callback) AND callback !~ '^temporal://.*[?&]signal=')),
    CONSTRAINT callback_rules_payload     CHECK (NOT payload OR callback <> 'none')
);
COMMENT ON TABLE outbox.callback_rules IS 'Outflow: callbacks of messages that are enqueued without one';
COMMENT ON COLUMN outbox.callback_rules.payload IS 'the callback carries the payload, too';
REVOKE ALL ON outbox.callback_rules FROM PUBLIC;

-- Where messages of a type go that are enqueued by route: each row makes one message.
-- The destination 'none' makes none. A type that has it alone goes nowhere.
CREATE TABLE outbox.routes (
    destination text COLLATE "C" NOT NULL,
    type        text COLLATE "C" NOT NULL,

    PRIMARY KEY (type, destination),
    CONSTRAINT routes_destination CHECK (destination = 'none' OR outbox.is_destination(destination)),
    CONSTRAINT routes_type        CHECK (length(type) <= 200 AND type ~ '^[A-Za-z0-9][A-Za-z0-9._:/-]*$' AND type !~* '^outflow[.]')
);
COMMENT ON TABLE outbox.routes IS 'Outflow: destinations of messages that are enqueued by route';
REVOKE ALL ON outbox.routes FROM PUBLIC;

-- The ID of a message by route: a UUIDv8 (RFC 9562, appendix B.2), the first 128 bits
-- of SHA-256 over the group's ID and the destination with version and variant set.
-- Postgres itself has no SHA-1 for a UUIDv5. outflow.RoutedID computes the same.
CREATE FUNCTION outbox.routed_id(group_id uuid, destination text) RETURNS uuid
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN encode(set_bit(set_bit(set_bit(set_bit(set_bit(set_bit(
        substr(sha256(uuid_send(group_id) || convert_to(destination, 'UTF8')), 1, 16),
        55, 1), 54, 0), 53, 0), 52, 0), 71, 1), 70, 0), 'hex')::uuid;

-- Whether a group has a message, or its ID is a message's: a producer that went from a
-- destination to routes, and enqueues again, must not send a second time. A plan that was made while the table was empty must
-- not read all of it later: enable_seqscan keeps it on the index.
CREATE FUNCTION outbox.has_group(wanted uuid) RETURNS boolean
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
    RETURN EXISTS (SELECT FROM outbox.messages AS m WHERE m.group_id = wanted)
        OR EXISTS (SELECT FROM outbox.messages AS m WHERE m.id = wanted);
END $$;

-- The destinations of each type that the messages of a call name, as the routes are at
-- one moment: {"order-placed": ["sqs://orders"]}. A type without a route is not there;
-- one that has the route 'none' alone has no destination.
CREATE FUNCTION outbox.routes_of(messages jsonb) RETURNS jsonb
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT coalesce(jsonb_object_agg(t.type, t.destinations), '{}')
              FROM (SELECT r.type, coalesce(jsonb_agg(r.destination ORDER BY r.destination) FILTER (WHERE r.destination <> 'none'), '[]') AS destinations
                      FROM outbox.routes AS r
                     WHERE r.type = ANY (ARRAY(SELECT DISTINCT o ->> 'type' FROM jsonb_array_elements(messages) AS o WHERE o ->> 'destination' = 'routes'))
                     GROUP BY r.type) AS t);
END $$;

-- Enqueues an array of JSON objects in one statement:
--   id, destination, type, payload (text or JSON) or payload_base64, content_type,
--   headers, ordering_key, due_at or due_in, expires_at or expires_in, callback
--   (where there is none, a rule's; 'none' for none at all), callback_payload.
-- One row comes back per object, in order. verdict is 'enqueued', 'exists' (its
-- ID is taken), or 'refused: field: what it wants'. Where one is refused, or one
-- exists and if_absent is false, nothing is written and the others are 'withdrawn'.
-- It raises nothing for these, so that the caller's transaction stays usable.
-- The destination 'routes' writes a message for each route of the type. Its id is the
-- group's, and 'exists' where the group has any message, or a message has that ID. The verdict of one whose only
-- route is 'none' is 'nowhere'.
CREATE FUNCTION outbox.enqueue_batch(messages jsonb, if_absent boolean DEFAULT false)
    RETURNS TABLE (index integer, message_id uuid, verdict text)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    moment   timestamptz := clock_timestamp();
    ruled    boolean := EXISTS (SELECT FROM outbox.callback_rules);
    rule     outbox.callback_rules;
    routes   jsonb;
    copies   integer;
    copied   bigint := 0;
    object   jsonb;
    f        record;
    m        outbox.messages;
    refused  text;
    decided  text;
    undone   boolean := false;
    met      boolean := false;
    ids      uuid[] := '{}';
    verdicts text[] := '{}';
    given    outbox.messages[] := '{}';
    owners   integer[] := '{}';
    targets  text[] := '{}';
    keys     text[] := '{}';
    seqs     bigint[];
    follows  boolean[];
    written  bigint[];
    taken    boolean[];
    doomed   uuid[] := '{}';
    seen     integer;
BEGIN
    IF jsonb_typeof(messages) IS DISTINCT FROM 'array' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'messages: wants a JSON array of objects';
    END IF;

    FOR object IN SELECT * FROM jsonb_array_elements(messages) LOOP
        m := NULL;
        decided := NULL;
        copies := 0;
        refused := outbox.object_refusal(object);
        IF refused IS NULL THEN
            SELECT * INTO f FROM jsonb_to_record(object) AS r(
                id uuid, destination text, type text, payload text, payload_base64 text, content_type text, headers jsonb,
                ordering_key text, due_at timestamptz, due_in interval, expires_at timestamptz, expires_in interval, callback text, callback_payload boolean);
            m.id           := coalesce(f.id, outbox.new_id());
            m.destination  := outbox.canonical_destination(f.destination);
            m.type         := f.type;
            m.payload      := coalesce(decode(f.payload_base64, 'base64'), convert_to(f.payload, 'UTF8'));
            m.content_type := coalesce(nullif(f.content_type, ''), 'application/json');
            m.headers      := coalesce(nullif(f.headers, 'null'), '{}');
            m.ordering_key := nullif(f.ordering_key, '');
            m.callback     := outbox.canonical_destination(nullif(f.callback, ''));
            m.callback_payload := coalesce(f.callback_payload, false);
            m.enqueued_at  := moment;
            m.due_at       := coalesce(f.due_at, moment + f.due_in, moment);
            m.available_at := greatest(m.due_at, moment);
            m.expires_at   := coalesce(f.expires_at, moment + f.expires_in);
            refused := CASE
                WHEN f.due_in < interval '0' THEN format('due_in: wants 0 or more (got %s)', f.due_in)
                WHEN f.expires_in <= interval '0' THEN format('expires_in: wants more than 0 (got %s)', f.expires_in)
                ELSE outbox.refusal(m) END;
            copies := 1;
            IF refused IS NULL AND m.destination = 'routes' THEN
                m.group_id := m.id;
                routes := coalesce(routes, outbox.routes_of(messages));
                copies := coalesce(jsonb_array_length(routes -> m.type), 0);
                copied := copied + copies::bigint * (octet_length(m.payload) + pg_column_size(m.headers));
                IF routes -> m.type IS NULL THEN
                    refused := format('type: wants a route (got %s, which has none): "outflow route set -type %s DESTINATION" sets one', to_json(m.type), m.type);
                ELSIF copied > 268435456 THEN
                    refused := format('payload: wants at most 268435456 bytes in all messages that a call writes by route, headers included (got %s)', copied);
                ELSIF copies = 0 THEN
                    decided := 'nowhere';
                ELSIF outbox.has_group(m.group_id) THEN
                    decided := 'exists';
                    copies := 0;
                    met := true;
                END IF;
            END IF;
        END IF;
        ids := ids || m.id;

        FOR place IN 1 .. copies LOOP
            EXIT WHEN refused IS NOT NULL;
            IF m.group_id IS NOT NULL THEN
                m.group_place := place;
                m.destination := routes -> m.type ->> place - 1;
                m.id          := outbox.routed_id(m.group_id, m.destination);
                m.callback    := outbox.canonical_destination(nullif(f.callback, ''));
                m.callback_payload := coalesce(f.callback_payload, false);
                refused       := outbox.refusal(m) || format(' (for the route to %s)', outbox.display_destination(m.destination));
            END IF;
            IF ruled AND m.callback IS NULL THEN
                -- The narrowest: '' sorts first. A join to the insert would be
                -- planned again for every call, which costs half as much again.
                SELECT c.* INTO rule FROM outbox.callback_rules AS c
                 WHERE c.destination IN (m.destination, '') AND c.type IN (m.type, '')
                 ORDER BY c.destination DESC, c.type DESC
                 LIMIT 1;
                m.callback := rule.callback;
                m.callback_payload := coalesce(rule.payload, false);
            END IF;
            m.callback := nullif(m.callback, 'none');
            given := given || m;
            targets := targets || m.destination;
            keys := keys || m.ordering_key;
            owners := owners || cardinality(ids);
        END LOOP;
        verdicts := verdicts || coalesce('refused: ' || refused, decided);
        undone := undone OR refused IS NOT NULL;
    END LOOP;

    IF NOT undone THEN
        -- The producers of a key have their turns: a seq from before the wait would not have the
        -- order of commits.
        IF cardinality(array_remove(keys, NULL)) > 0 THEN
            follows := outbox.take_keys(targets, keys);
        END IF;
        seqs := ARRAY(SELECT nextval('outbox.messages_seq_seq') FROM generate_series(1, cardinality(given)));
        -- A row that another transaction has written and not committed is waited
        -- for here, so a conflict is a fact; DO NOTHING keeps the transaction usable.
        -- A conflict is one of the ID, or of a group's place. In the order of IDs and
        -- groups, two calls with the same ones can't wait for each other in a circle;
        -- seq keeps the call's order.
        WITH inserted AS (
            INSERT INTO outbox.messages AS t (id, seq, destination, type, payload, content_type, headers, ordering_key, group_id, group_place,
                                              enqueued_at, due_at, available_at, parked, head, follower, expires_at,
                                              callback, callback_payload)
            OVERRIDING SYSTEM VALUE
            SELECT g.id, seqs[g.ordinality], g.destination, g.type, g.payload, g.content_type, g.headers, g.ordering_key,
                   g.group_id, g.group_place,
                   g.enqueued_at, g.due_at, CASE WHEN follows[g.ordinality] THEN '9999-12-31Z' ELSE g.available_at END,
                   g.available_at > moment OR coalesce(follows[g.ordinality], false),
                   g.ordering_key IS NOT NULL AND NOT follows[g.ordinality], coalesce(follows[g.ordinality], false),
                   g.expires_at, g.callback, g.callback_payload
              FROM unnest(given) WITH ORDINALITY AS g
             ORDER BY coalesce(g.group_id, g.id), g.group_place, g.ordinality
            ON CONFLICT DO NOTHING
            RETURNING t.seq)
        SELECT coalesce(array_agg(i.seq), '{}') INTO written FROM inserted AS i;
    END IF;

    -- A message of the call is written whole or not at all: where a row of it is missing,
    -- its others go. Both arrays are in the order of seq, so that one walk finds what is
    -- missing; a search for each row would cost the square of their number.
    IF written IS NOT NULL AND (met OR cardinality(written) < cardinality(given)) THEN
        undone := NOT if_absent;
        written := ARRAY(SELECT w FROM unnest(written) AS w ORDER BY w);
        taken := array_fill(false, ARRAY[cardinality(ids)]);
        seen := 0;
        FOR i IN 1 .. cardinality(given) LOOP
            IF seqs[i] = written[seen + 1] THEN
                seen := seen + 1;
            ELSE
                taken[owners[i]] := true;
            END IF;
        END LOOP;
        seen := 0;
        FOR i IN 1 .. cardinality(given) LOOP
            IF seqs[i] = written[seen + 1] THEN
                seen := seen + 1;
                IF undone OR taken[owners[i]] THEN
                    doomed := doomed || (given[i]).id;
                END IF;
            END IF;
        END LOOP;
        IF cardinality(doomed) > 0 THEN -- the kept plan of a delete may read the whole table
            DELETE FROM outbox.messages AS t WHERE t.id = ANY (doomed);
        END IF;
        IF follows IS NOT NULL THEN -- the first of a key may be missing
            PERFORM outbox.release(k.destination, k.ordering_key)
               FROM (SELECT DISTINCT u.destination, u.ordering_key
                       FROM unnest(targets, keys) AS u (destination, ordering_key)) AS k
              WHERE k.ordering_key IS NOT NULL;
        END IF;
    END IF;

    -- A starter may wait for messages: see outbox.hint. Followers wait for their turn. A producer that
    -- prepares its transaction for two-phase commit turns hints off: such a transaction can't notify.
    IF cardinality(written) > cardinality(doomed) AND NOT coalesce(true = ALL (follows), false)
        AND lower(coalesce(current_setting('outflow.hint', true), '')) NOT IN ('off', 'false', 'no', '0') THEN
        PERFORM outbox.hint(by_producer => true);
    END IF;

    FOR i IN 1 .. cardinality(ids) LOOP
        index := i - 1;
        message_id := ids[i];
        verdict := coalesce(verdicts[i], CASE
            WHEN taken[i] THEN 'exists'
            WHEN undone THEN 'withdrawn'
            ELSE 'enqueued' END);
        RETURN NEXT;
    END LOOP;
END $$;

-- Enqueues one message and returns its ID; by route, its group's. What enqueue_batch
-- reports, this raises: invalid_parameter_value for bad input, unique_violation for an
-- ID that exists (with if_absent, its ID is returned and nothing is written).
CREATE FUNCTION outbox.enqueue(
    destination text, type text, payload text, content_type text DEFAULT NULL, headers jsonb DEFAULT NULL,
    ordering_key text DEFAULT NULL, id uuid DEFAULT NULL,
    due_at timestamptz DEFAULT NULL, due_in interval DEFAULT NULL,
    expires_at timestamptz DEFAULT NULL, expires_in interval DEFAULT NULL, if_absent boolean DEFAULT false,
    callback text DEFAULT NULL, callback_payload boolean DEFAULT false)
    RETURNS uuid
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN outbox.enqueue(destination, type, convert_to(payload, 'UTF8'), content_type, headers,
                          ordering_key, id, due_at, due_in, expires_at, expires_in, if_absent, callback, callback_payload);
END $$;

CREATE FUNCTION outbox.enqueue(
    destination text, type text, payload bytea, content_type text DEFAULT NULL, headers jsonb DEFAULT NULL,
    ordering_key text DEFAULT NULL, id uuid DEFAULT NULL,
    due_at timestamptz DEFAULT NULL, due_in interval DEFAULT NULL,
    expires_at timestamptz DEFAULT NULL, expires_in interval DEFAULT NULL, if_absent boolean DEFAULT false,
    callback text DEFAULT NULL, callback_payload boolean DEFAULT false)
    RETURNS uuid
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    answer record;
BEGIN
    SELECT * INTO answer FROM outbox.enqueue_batch(jsonb_build_array(jsonb_build_object(
        'id', id, 'destination', destination, 'type', type, 'payload_base64', encode(payload, 'base64'),
        'content_type', content_type, 'headers', headers, 'ordering_key', ordering_key,
        'due_at', due_at, 'due_in', due_in, 'expires_at', expires_at, 'expires_in', expires_in,
        'callback', callback, 'callback_payload', callback_payload)), if_absent);
    IF answer.verdict = 'exists' AND NOT if_absent THEN
        RAISE unique_violation USING MESSAGE = format('id: a message with the ID %s was enqueued before', answer.message_id);
    ELSIF answer.verdict LIKE 'refused: %' THEN
        RAISE invalid_parameter_value USING MESSAGE = substr(answer.verdict, length('refused: ') + 1);
    END IF;
    RETURN answer.message_id;
END $$;

-- A JSON payload is sent as its text: json as it was written, jsonb as Postgres
-- writes it. A literal or parameter without a type stays text, because Postgres
-- prefers the string types: outbox.enqueue('sqs://orders', 'order-placed', '{}').
CREATE FUNCTION outbox.enqueue(
    destination text, type text, payload json, content_type text DEFAULT NULL, headers jsonb DEFAULT NULL,
    ordering_key text DEFAULT NULL, id uuid DEFAULT NULL,
    due_at timestamptz DEFAULT NULL, due_in interval DEFAULT NULL,
    expires_at timestamptz DEFAULT NULL, expires_in interval DEFAULT NULL, if_absent boolean DEFAULT false,
    callback text DEFAULT NULL, callback_payload boolean DEFAULT false)
    RETURNS uuid
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN outbox.enqueue(destination, type, convert_to(payload::text, 'UTF8'), content_type, headers,
                          ordering_key, id, due_at, due_in, expires_at, expires_in, if_absent, callback, callback_payload);
END $$;

CREATE FUNCTION outbox.enqueue(
    destination text, type text, payload jsonb, content_type text DEFAULT NULL, headers jsonb DEFAULT NULL,
    ordering_key text DEFAULT NULL, id uuid DEFAULT NULL,
    due_at timestamptz DEFAULT NULL, due_in interval DEFAULT NULL,
    expires_at timestamptz DEFAULT NULL, expires_in interval DEFAULT NULL, if_absent boolean DEFAULT false,
    callback text DEFAULT NULL, callback_payload boolean DEFAULT false)
    RETURNS uuid
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN outbox.enqueue(destination, type, convert_to(payload::text, 'UTF8'), content_type, headers,
                          ordering_key, id, due_at, due_in, expires_at, expires_in, if_absent, callback, callback_payload);
END $$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA outbox FROM PUBLIC;

SELECT pg_catalog.set_config('search_path', pg_catalog.current_setting('outflow.search_path'), false);
