package outboxdb_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb"
)

// A producer needs to use the schema and to execute the functions: no right on
// the table, where everybody's payloads are.
func TestProducerRights(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	role := newRole(t, pool)
	execute(t, pool, `GRANT USAGE ON SCHEMA outbox TO `+role)
	execute(t, pool, `GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA outbox TO `+role)
	as := withRole(t, pool, role)
	require.Equal(t, role, value[string](t, as, `SELECT current_user::text`))

	enqueue(t, as, messages("sqs://orders", 3)...)
	value[uuid.UUID](t, as, `SELECT outbox.enqueue('sqs://orders', 'a', 'literal')`)
	value[uuid.UUID](t, as, `SELECT outbox.enqueue('sqs://orders', 'a', 'text'::text)`)
	value[uuid.UUID](t, as, `SELECT outbox.enqueue('sqs://orders', 'a', 'bytes'::bytea)`)
	require.Equal(t, 6, count(t, pool))
	msgs := withIDs(1)
	enqueue(t, as, msgs...)
	inTx(t, as, func(tx pgx.Tx) {
		ids, err := outboxdb.EnqueueIfAbsent(t.Context(), tx, msgs...)
		require.NoError(t, err)
		require.Empty(t, ids)
	})
	for _, forbidden := range []string{
		`SELECT FROM outbox.messages`, `DELETE FROM outbox.messages`, `UPDATE outbox.messages SET state = 'dead'`,
		`INSERT INTO outbox.messages (id, destination, type, payload) VALUES (gen_random_uuid(), 'sqs://q', 'a', 'x')`,
		`TRUNCATE outbox.messages`, `CREATE TABLE outbox.mine ()`,
	} {
		_, err := as.Exec(t.Context(), forbidden)
		require.Equal(t, "42501", sqlState(err), forbidden)
	}
}

// A dispatcher reads and updates the table; an update checks the destination.
// It inserts and deletes nothing.
func TestDispatcherRights(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	role := newRole(t, pool)
	execute(t, pool, `GRANT USAGE ON SCHEMA outbox TO `+role+`; GRANT SELECT, UPDATE ON outbox.messages TO `+role+`;
		GRANT SELECT, INSERT, UPDATE ON outbox.destinations TO `+role+`;
		GRANT EXECUTE ON FUNCTION outbox.is_destination(text) TO `+role)
	store := outboxdb.New(withRole(t, pool, role))
	require.NoError(t, store.Ping(t.Context()))
	enqueue(t, pool, messages("rabbitmq://events/%20", 4)...)
	m := claim(t, store, request()).Messages
	require.Len(t, m, 4)
	require.NoError(t, store.Release(t.Context(), m[0]))
	require.NoError(t, store.Yield(t.Context(), m[1].Ref()))
	_, err := store.Renew(t.Context(), outflow.Renewal{Ref: m[2].Ref(), Lease: time.Minute})
	require.NoError(t, err)
	_, err = store.Finish(t.Context(), outflow.Ending{Ref: m[3].Ref(), State: outflow.Delivered})
	require.NoError(t, err)
	_, err = store.Load(t.Context(), m[3].Ref())
	require.NoError(t, err)
	_, err = store.Pending(t.Context())
	require.NoError(t, err)
}

// A caller's own objects must not be taken for the function's, which runs with
// its owner's rights.
func TestProducerCannotShadow(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	role := newRole(t, pool)
	execute(t, pool, `GRANT USAGE ON SCHEMA outbox TO `+role+`; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA outbox TO `+role+`; CREATE SCHEMA mine AUTHORIZATION `+role)
	as := withRole(t, pool, role)
	conn, err := as.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	_, err = conn.Exec(t.Context(), `
		CREATE FUNCTION mine.length(text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE 'shadowed as %', current_user; END $$;
		CREATE FUNCTION mine.jsonb_array_elements(jsonb) RETURNS SETOF jsonb LANGUAGE plpgsql AS $$ BEGIN RAISE 'shadowed as %', current_user; END $$;
		CREATE FUNCTION pg_temp.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN RAISE 'shadowed as %', current_user; END $$;
		SET search_path = mine, pg_temp, pg_catalog`)
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), `SELECT length('x'::text)`)
	require.ErrorContains(t, err, "shadowed", "the trap works")
	_, err = conn.Exec(t.Context(), `SELECT outbox.enqueue('sqs://orders', 'a', 'x', headers => '{"a": "b"}')`)
	require.NoError(t, err)
}

func TestPublicRights(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	role := newRole(t, pool)
	require.False(t, value[bool](t, pool, `SELECT has_schema_privilege($1, 'outbox', 'USAGE') OR has_schema_privilege($1, 'outbox', 'CREATE')`, role))
	require.Empty(t, values[string](t, pool, `SELECT oid::regprocedure::text FROM pg_proc
		WHERE pronamespace = 'outbox'::regnamespace AND has_function_privilege($1, oid, 'EXECUTE')`, role))
	require.Empty(t, values[string](t, pool, `SELECT oid::regclass::text FROM pg_class
		WHERE relnamespace = 'outbox'::regnamespace AND relkind IN ('r', 'S')
		  AND CASE relkind WHEN 'S' THEN has_sequence_privilege($1, oid, 'USAGE,SELECT,UPDATE')
		      ELSE has_table_privilege($1, oid, 'SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER') END`, role))
	_, err := withRole(t, pool, role).Exec(t.Context(), `SELECT outbox.enqueue('sqs://orders', 'a', 'x')`)
	require.Equal(t, "42501", sqlState(err))
}
