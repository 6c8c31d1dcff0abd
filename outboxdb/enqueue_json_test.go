package outboxdb_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/operator"
)

// TestEnqueueAcceptsPayloadsOfEveryType: a payload of each type, and one without a type, finds
// its function, by position and by name.
func TestEnqueueAcceptsPayloadsOfEveryType(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	written, plain := `{"b": 1,  "a": "日"}`, `{"a": "日", "b": 1}`
	for given, sent := range map[string]string{
		`'{"b": 1,  "a": "日"}'`:                    written, // the README's: no type
		`'{"b": 1,  "a": "日"}'::text`:              written,
		`'{"b": 1,  "a": "日"}'::varchar(100)`:      written,
		`'{"b": 1,  "a": "日"}'::bpchar`:            written,
		`'{"b": 1,  "a": "日"}'::name`:              written,
		`'{"b": 1,  "a": "日"}'::json`:              written,
		`'{"b": 1,  "a": "日"}'::jsonb`:             plain,
		`to_jsonb('{"b": 1,  "a": "日"}'::jsonb)`:   plain,
		`jsonb_build_object('a', '日', 'b', 1)`:     plain,
		`json_build_object('a', '日', 'b', 1)`:      `{"a" : "日", "b" : 1}`,
		`row_to_json(r)`:                           `{"a":"日","b":1}`,
		`to_jsonb(r)`:                              plain,
		`convert_to('{"b": 1,  "a": "日"}','UTF8')`: written,
		`'null'::jsonb`:                            `null`,
		`'"text"'::json`:                           `"text"`,
	} {
		for _, statement := range []string{
			`SELECT outbox.enqueue('sqs://orders', 'order-placed', ` + given + `) FROM (SELECT '日' AS a, 1 AS b) AS r`,
			`SELECT outbox.enqueue(payload => ` + given +
				`, type => 'order-placed', headers => '{"tenant": "acme"}',
				destination => 'sqs://orders', due_in => '1 hour')
				FROM (SELECT '日' AS a, 1 AS b) AS r`,
		} {
			var id string
			require.NoError(t, pool.QueryRow(t.Context(), statement).Scan(&id), given)
			var payload []byte
			var contentType string
			require.NoError(t, pool.QueryRow(t.Context(),
				`SELECT payload, content_type FROM outbox.messages WHERE id = $1`, id).Scan(&payload, &contentType))
			require.Equal(t, sent, string(payload), given)
			require.Equal(t, "application/json", contentType)
		}
	}
}

// TestEnqueueWithUntypedParameters: drivers such as node-postgres and psycopg send text whose
// type the server infers.
func TestEnqueueWithUntypedParameters(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	conn, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	values := [][]byte{[]byte("sqs://orders"), []byte("order-placed"), []byte(`{"b": 1,  "a": 2}`),
		[]byte(`{"tenant": "acme"}`)}
	for sql, n := range map[string]int{
		`SELECT outbox.enqueue($1, $2, $3)`:                                                      3,
		`SELECT outbox.enqueue($1, $2, $3, headers => $4)`:                                       4,
		`SELECT outbox.enqueue(destination => $1, type => $2, payload => $3)`:                    3,
		`SELECT outbox.enqueue($1, $2, $3::json)`:                                                3,
		`SELECT outbox.enqueue($1, $2, $3::bytea)`:                                               3,
		`SELECT outbox.enqueue(destination => $1, type => $2, payload => $3::text, id => NULL)`:  3,
		`SELECT outbox.enqueue(destination => $1, type => $2, payload => $3, if_absent => true)`: 3,
	} {
		result := conn.Conn().PgConn().ExecParams(t.Context(), sql, values[:n], nil, nil, nil).Read()
		require.NoError(t, result.Err, sql)
		var payload []byte
		require.NoError(t, conn.QueryRow(t.Context(), `SELECT payload FROM outbox.messages WHERE id = $1`,
			string(result.Rows[0][0])).Scan(&payload))
		require.Equal(t, `{"b": 1,  "a": 2}`, string(payload), sql)
	}
}

// TestEnqueueWithTypedParameters: psycopg's Json and Jsonb, and JDBC's strings, have a type.
func TestEnqueueWithTypedParameters(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	conn, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	for _, c := range []struct {
		payload uint32
		sent    string
	}{
		{pgtype.JSONOID, `{"b": 1,  "a": 2}`}, {pgtype.JSONBOID, `{"a": 2, "b": 1}`}, {pgtype.TextOID,
			`{"b": 1,  "a": 2}`},
		{pgtype.VarcharOID, `{"b": 1,  "a": 2}`}, {pgtype.UnknownOID, `{"b": 1,  "a": 2}`}, {pgtype.ByteaOID,
			`{"b": 1,  "a": 2}`},
	} {
		for _, text := range []uint32{pgtype.TextOID, pgtype.VarcharOID, pgtype.UnknownOID} {
			values := [][]byte{[]byte("sqs://orders"), []byte("order-placed"), []byte(`{"b": 1,  "a": 2}`)}
			result := conn.Conn().PgConn().ExecParams(t.Context(), `SELECT outbox.enqueue($1, $2, $3)`, values,
				[]uint32{text, text, c.payload}, nil, nil).Read()
			require.NoError(t, result.Err, "%d, %d", text, c.payload)
			var payload []byte
			require.NoError(t, conn.QueryRow(t.Context(), `SELECT payload FROM outbox.messages WHERE id = $1`,
				string(result.Rows[0][0])).Scan(&payload))
			require.Equal(t, c.sent, string(payload))
		}
	}
}

// TestEnqueueRefusesBadJSONPayloads: with the error texts of the other types.
func TestEnqueueRefusesBadJSONPayloads(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	for given, wants := range map[string]string{
		`NULL::jsonb`:                    "payload: wants 1 to 16777216 bytes (got 0)",
		`NULL::json`:                     "payload: wants 1 to 16777216 bytes (got 0)",
		`to_jsonb(repeat('a', 1048576))`: "payload: wants at most 1048576 bytes for sqs (got 1048578)",
	} {
		_, err := pool.Exec(t.Context(), `SELECT outbox.enqueue('sqs://orders', 'order-placed', `+given+`)`)
		var refused *pgconn.PgError
		require.ErrorAs(t, err, &refused, given)
		require.Equal(t, "22023", refused.Code)
		require.Equal(t, wants, refused.Message)
	}
}

// TestATriggerEnqueues what it writes, as a producer with no right on the table.
func TestATriggerEnqueues(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	role := newRole(t, pool)
	require.NoError(t, operator.Grants{Producers: []string{role}}.Apply(t.Context(), pool))
	execute(t, pool, `CREATE TABLE orders (id bigint PRIMARY KEY, item text)`)
	execute(t, pool, `
		CREATE FUNCTION announce() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM outbox.enqueue('sqs://orders', 'order-placed', to_jsonb(NEW));
			PERFORM outbox.enqueue('sqs://orders', 'order-placed', row_to_json(NEW),
				ordering_key => 'order-' || NEW.id);
			RETURN NEW;
		END $$`)
	execute(t, pool, `CREATE TRIGGER announce AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION announce()`)
	execute(t, pool, `GRANT INSERT ON orders TO `+role)
	as := strings.Join([]string{`BEGIN`, `SET LOCAL ROLE ` + role, `INSERT INTO orders VALUES (7, 'teapot')`, `COMMIT`},
		";")
	_, err := pool.Exec(t.Context(), as, pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	var payloads []string
	require.NoError(t, pool.QueryRow(t.Context(),
		`SELECT array_agg(convert_from(payload, 'UTF8') ORDER BY seq) FROM outbox.messages`).Scan(&payloads))
	require.Equal(t, []string{`{"id": 7, "item": "teapot"}`, `{"id":7,"item":"teapot"}`}, payloads)
}
