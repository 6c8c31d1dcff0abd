package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow/publish/awssqs"
)

// filling writes many rows as the variant's own producers would, with SQL: what waits, and what was
// delivered an hour ago. tables are those that autovacuum would have looked after.
type filling struct {
	waiting, done func(queue string, n int) []string
	tables        string
}

var fills = map[string]filling{
	tracked:       {outflowWaiting, outflowDone, ""},
	stream:        {outflowWaiting, outflowDone, ""},
	riverPeer:     {riverWaiting, riverDone, riverSchema + ".river_job"},
	dbosPeer:      {dbosWaiting, dbosDone, dbosTables},
	watermillPeer: {watermillWaiting, watermillDone, watermillSource().tables},
}

// fillFunctions are an event, and a UUID of version 7.
const fillFunctions = `
CREATE SCHEMA IF NOT EXISTS bench;
CREATE OR REPLACE FUNCTION bench.event(n bigint) RETURNS text LANGUAGE sql VOLATILE AS $$
	SELECT format('{"event":"order-placed","number":%s,"customer":"%s","lines":[%s]}', n, gen_random_uuid(),
		rtrim(repeat('{"sku":"A-1000","quantity":2},', 4), ',')) $$;
CREATE OR REPLACE FUNCTION bench.id() RETURNS uuid LANGUAGE sql VOLATILE AS $$
	SELECT (lpad(to_hex((extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0')
		|| '7' || substr(h, 1, 3) || '8' || substr(h, 4, 15))::uuid
	  FROM (SELECT replace(gen_random_uuid()::text, '-', '') AS h) AS r $$;`

func (w *world) prepareFills(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, w.DatabaseURL)
	if err != nil {
		return fmt.Errorf("connecting to the database: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, fillFunctions); err != nil {
		return fmt.Errorf("creating the functions that fill tables: %w", err)
	}
	return nil
}

func outflowWaiting(queue string, n int) []string {
	return []string{fmt.Sprintf(`
INSERT INTO outbox.messages (id, destination, type, payload)
SELECT bench.id(), 'sqs://%s', '%s', convert_to(bench.event(n), 'UTF8') FROM generate_series(1, %d) AS n`,
		queue, messageType, n)}
}

func outflowDone(queue string, n int) []string {
	return []string{fmt.Sprintf(`
INSERT INTO outbox.messages (id, destination, type, payload, state, claims, attempts, started, enqueued_at, due_at,
                             available_at, finished_at, broker_message_id)
SELECT bench.id(), 'sqs://%s', '%s', convert_to(bench.event(n), 'UTF8'), 'delivered', 1, 1, true, at, at,
       at + interval '1 minute', at + interval '1 second', gen_random_uuid()::text
  FROM generate_series(1, %d) AS n, (SELECT now() - interval '1 hour' AS at) AS t`, queue, messageType, n)}
}

func riverWaiting(queue string, n int) []string {
	return []string{fmt.Sprintf(`
INSERT INTO river.river_job (args, kind, max_attempts)
SELECT jsonb_build_object('id', bench.id(), 'queue', '%s', 'body', bench.event(n)), '%s', 25
  FROM generate_series(1, %d) AS n`, queue, riverArgs{}.Kind(), n)}
}

func riverDone(queue string, n int) []string {
	return []string{fmt.Sprintf(`
INSERT INTO river.river_job (args, kind, max_attempts, state, attempt, attempted_by, created_at, scheduled_at,
                             attempted_at, finalized_at)
SELECT jsonb_build_object('id', bench.id(), 'queue', '%s', 'body', bench.event(n)), '%s', 25, 'completed', 1, '{bench}',
       at, at, at, at
  FROM generate_series(1, %d) AS n, (SELECT now() - interval '1 hour' AS at) AS t`, queue, riverArgs{}.Kind(), n)}
}

// dbosRows begins a statement that writes workflows and their inputs.
const dbosRows = `
WITH w AS MATERIALIZED (
    SELECT gen_random_uuid()::text AS id, n, (extract(epoch FROM now()) * 1000)::bigint - %d + n AS at
      FROM generate_series(1, %d) AS n),
input AS (
    INSERT INTO dbos.workflow_input (workflow_uuid, inputs)
    SELECT w.id, translate(encode(convert_to(json_build_object('id', bench.id(), 'queue', '%s',
           'body', bench.event(w.n))::text, 'UTF8'), 'base64'), E'\n', '') FROM w)`

func dbosWaiting(queue string, n int) []string {
	return []string{fmt.Sprintf(dbosRows+`
INSERT INTO dbos.workflow_status (workflow_uuid, status, name, authenticated_roles, created_at, updated_at, queue_name,
                                  serialization, application_name, creator_xid)
SELECT w.id, 'ENQUEUED', '%s', 'null', w.at, w.at, '%s', 'DBOS_JSON', '%s', gen_random_uuid()::text FROM w`,
		n, n, queue, dbosWorkflow, dbosQueue, dbosApplication)}
}

func dbosDone(queue string, n int) []string {
	return []string{fmt.Sprintf(dbosRows+`,
output AS (INSERT INTO dbos.workflow_output (workflow_uuid, output) SELECT w.id, 'IiI=' FROM w),
step AS (
    INSERT INTO dbos.operation_outputs (workflow_uuid, function_id, function_name, output, started_at_epoch_ms,
                                        completed_at_epoch_ms, serialization, application_name)
    SELECT w.id, 0, 'send', 'IiI=', w.at, w.at, 'DBOS_JSON', '%s' FROM w)
INSERT INTO dbos.workflow_status (workflow_uuid, status, name, authenticated_roles, created_at, updated_at, queue_name,
                                  serialization, application_name, creator_xid, executor_id, application_version,
                                  started_at_epoch_ms, completed_at, recovery_attempts)
SELECT w.id, 'SUCCESS', '%s', 'null', w.at, w.at, '%s', 'DBOS_JSON', '%s', gen_random_uuid()::text, 'local', '1', w.at,
       w.at, 1 FROM w`, n, n, queue, dbosApplication, dbosWorkflow, dbosQueue, dbosApplication)}
}

// watermillWaiting has a transaction of a thousand messages for each insert: where a message's
// transaction has its place in the order, one for all would be another table.
func watermillWaiting(queue string, n int) []string {
	var all []string
	for i := 0; n > 0; i++ {
		some := min(n, watermillInsert)
		n -= some
		all = append(all, fmt.Sprintf(`
INSERT INTO %s (uuid, payload, metadata, transaction_id)
SELECT gen_random_uuid()::text, convert_to(json_build_object('destination_topic', '%s', 'uuid', e.id,
       'payload', translate(encode(convert_to(bench.event(e.n), 'UTF8'), 'base64'), E'\n', ''),
       'metadata', json_build_object('%s', e.id))::text, 'UTF8'), '{}', pg_current_xact_id()
  FROM (SELECT bench.id() AS id, n FROM generate_series(1, %d) AS n) AS e`,
			watermillTable(watermillTopic(i%watermillTopics)), queue, awssqs.AttributeMessageID, some))
	}
	return all
}

func watermillDone(queue string, n int) []string {
	all := watermillWaiting(queue, n)
	for i := range watermillTopics {
		topic := watermillTopic(i)
		all = append(all, fmt.Sprintf(`
INSERT INTO %s (consumer_group, offset_acked, last_processed_transaction_id)
SELECT '', m."offset", m.transaction_id FROM %s AS m ORDER BY m.transaction_id DESC, m."offset" DESC LIMIT 1
ON CONFLICT (consumer_group) DO UPDATE SET offset_acked = excluded.offset_acked,
       last_processed_transaction_id = excluded.last_processed_transaction_id`,
			watermillOffsets(topic), watermillTable(topic)))
	}
	return all
}
