package outboxdb_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/operator"
)

// A caller's own objects must not be taken for the function's, which runs with
// its owner's rights.
func TestProducerCannotShadow(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	role := newRole(t, pool)
	require.NoError(t, operator.Grants{Producers: []string{role}}.Apply(t.Context(), pool))
	execute(t, pool, `CREATE SCHEMA mine AUTHORIZATION `+role)
	as := withRole(t, pool, role)
	conn, err := as.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	_, err = conn.Exec(t.Context(), `
		CREATE FUNCTION mine.length(text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE 'shadowed as %',
		    current_user; END $$;
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
	require.False(t, value[bool](t, pool, `SELECT has_schema_privilege($1, 'outbox', 'USAGE')
	    OR has_schema_privilege($1, 'outbox', 'CREATE')`, role))
	require.Empty(t, values[string](t, pool, `SELECT oid::regprocedure::text FROM pg_proc
		WHERE pronamespace = 'outbox'::regnamespace AND has_function_privilege($1, oid, 'EXECUTE')`, role))
	require.Empty(t, values[string](t, pool, `SELECT oid::regclass::text FROM pg_class
		WHERE relnamespace = 'outbox'::regnamespace AND relkind IN ('r', 'S')
		  AND CASE relkind WHEN 'S' THEN has_sequence_privilege($1, oid, 'USAGE,SELECT,UPDATE')
		      ELSE has_table_privilege($1, oid, 'SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER') END`, role))
	_, err := withRole(t, pool, role).Exec(t.Context(), `SELECT outbox.enqueue('sqs://orders', 'a', 'x')`)
	require.Equal(t, "42501", sqlState(err))
}
