package outboxdb_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/operator"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/outboxdb/migrate"
	"github.com/outflowhq/outflow/workflows"
)

// Every statement works in each of pgx's execution modes, and through a pooler that
// gives each transaction another session, whatever the mode.
func TestEveryMode(t *testing.T) {
	t.Parallel()
	modes := map[string]pgx.QueryExecMode{
		"cache_statement": pgx.QueryExecModeCacheStatement, "cache_describe": pgx.QueryExecModeCacheDescribe,
		"describe_exec": pgx.QueryExecModeDescribeExec, "exec": pgx.QueryExecModeExec,
		"simple_protocol": pgx.QueryExecModeSimpleProtocol,
	}
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := teststack.New(t)
			tour(t, pool, another(t, pool, func(c *pgxpool.Config) {
				c.ConnConfig.DefaultQueryExecMode = mode
				c.ConnConfig.RuntimeParams["enable_seqscan"], c.ConnConfig.RuntimeParams["jit"] = "off", "off"
			}))
		})
	}
	t.Run("exec without a cache", func(t *testing.T) {
		t.Parallel()
		pool := teststack.New(t)
		tour(t, pool, another(t, pool, func(c *pgxpool.Config) {
			c.ConnConfig.DefaultQueryExecMode, c.ConnConfig.DescriptionCacheCapacity = pgx.QueryExecModeExec, 0
		}))
	})
	for _, name := range []string{"cache_statement", "exec", "simple_protocol"} {
		t.Run("pgbouncer, "+name, func(t *testing.T) {
			t.Parallel()
			pool := teststack.New(t)
			config := teststack.PgBouncer(t, pool)
			tour(t, pool, another(t, pool, func(c *pgxpool.Config) {
				*c.ConnConfig = *config.ConnConfig.Copy()
				c.ConnConfig.DefaultQueryExecMode = modes[name]
			}))
		})
	}
}

// A connection keeps the plan of a statement from when the table was small. With enable_seqscan that plan
// reads all of the table: such a connection keeps none.
func TestPlansAreKeptWithoutSeqScansAlone(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	for setting, kept := range map[string]bool{"on": false, "off": true} {
		one := another(t, pool, func(c *pgxpool.Config) {
			c.ConnConfig.RuntimeParams["enable_seqscan"], c.MaxConns = setting, 1
		})
		store := outboxdb.New(one)
		id := enqueue(t, one, message("sqs://orders"))[0]
		for range 10 {
			_, err := store.Load(t.Context(), outbox.Ref{ID: id, Generation: 1})
			require.NoError(t, err)
		}
		require.Equal(t, kept, value[bool](t, one, `
			SELECT EXISTS (SELECT FROM pg_prepared_statements WHERE statement = $1)`, outboxdb.StatementLoad), setting)
	}
}

// hostile are settings of a role or database that change what a statement means, how
// its parameters and results are written, or what is done besides.
var hostile = []string{
	`client_encoding = 'LATIN1'`, `standard_conforming_strings = off`, `"DateStyle" = 'SQL, DMY'`,
	`"IntervalStyle" = 'iso_8601'`,
	`"TimeZone" = 'Asia/Kathmandu'`, `bytea_output = 'escape'`, `extra_float_digits = -15`,
	`default_transaction_isolation = 'serializable'`,
	`row_security = off`, `idle_in_transaction_session_timeout = '30s'`, `plan_cache_mode = 'force_generic_plan'`,
	`jit = on`, `jit_above_cost = 0`,
	`array_nulls = off`, `transform_null_equals = on`, `lc_monetary = 'C'`, `search_path = 'nowhere'`,
	`statement_timeout = '30s'`, `lock_timeout = '20s'`,
	`enable_indexscan = off`, `check_function_bodies = off`, `escape_string_warning = on`, `backslash_quote = off`,
	`default_transaction_deferrable = on`,
	`quote_all_identifiers = on`, `xmlbinary = 'hex'`, `application_name = 'someone else'`,
}

// refusedByPgx names the settings with which pgx sends nothing by the simple protocol.
func refusedByPgx(setting string) bool {
	return strings.HasPrefix(setting, "client_encoding") || strings.HasPrefix(setting, "standard_conforming_strings")
}

// Every statement works for a role with all of these settings.
func TestHostileRole(t *testing.T) {
	t.Parallel()
	for name, mode := range map[string]pgx.QueryExecMode{
		"cache_statement": pgx.QueryExecModeCacheStatement, "exec": pgx.QueryExecModeExec,
		"simple_protocol": pgx.QueryExecModeSimpleProtocol,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := teststack.New(t)
			role := newRole(t, pool)
			all := []string{role}
			require.NoError(t, operator.Grants{Producers: all, Dispatchers: all, Operators: all}.Apply(t.Context(),
				pool))
			execute(t, pool, `GRANT INSERT ON outbox.messages TO `+role)
			for _, setting := range hostile {
				if mode == pgx.QueryExecModeSimpleProtocol && refusedByPgx(setting) {
					continue
				}
				execute(t, pool, `ALTER ROLE `+role+` SET `+setting)
			}
			tour(t, pool, another(t, pool, func(c *pgxpool.Config) {
				c.ConnConfig.User, c.ConnConfig.Password, c.ConnConfig.DefaultQueryExecMode = role, role, mode
			}))
		})
	}
}

// isDirect reports whether no pooler stands before pool's server.
func isDirect(setup, pool *pgxpool.Pool) bool {
	return pool.Config().ConnConfig.Port == setup.Config().ConnConfig.Port
}

const awkwardError = "503 日本 \\ ' é"

// lostRuns is a Temporal that knows no run; in willingRuns there is one that accepts signals.
type (
	lostRuns    struct{}
	willingRuns struct{ lostRuns }
)

func (lostRuns) Describe(context.Context, string) (operator.Run, error) {
	return operator.Run{}, operator.ErrNoRun
}
func (lostRuns) Cancel(context.Context, string) error    { return operator.ErrNoRun }
func (lostRuns) TryNow(context.Context, string) error    { return operator.ErrNoRun }
func (willingRuns) TryNow(context.Context, string) error { return nil }

func (lostRuns) StartStream(context.Context, client.StartWorkflowOptions, workflows.StreamInput) (string, error) {
	return "", operator.ErrRunOpen
}
func (willingRuns) Describe(context.Context, string) (operator.Run, error) {
	return operator.Run{RunID: "run-1"}, nil
}
func (willingRuns) Cancel(context.Context, string) error { return nil }

// A function whose patterns have backslashes is read with the caller's settings.
func TestBackslashesMeanWhatTheySay(t *testing.T) {
	t.Parallel()
	require.Empty(t, values[string](t, teststack.New(t), `
		SELECT p.oid::regprocedure::text FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
		 WHERE n.nspname IN ('outbox', 'inbox') AND p.prosqlbody IS NULL AND p.prosrc LIKE '%\\%'
		   AND 'standard_conforming_strings=on' <> ALL (coalesce(p.proconfig, '{}'))`))
}

// Two transactions that enqueue the same IDs, in opposite order, wait for each other
// and not in a circle.
func TestEnqueueTheSameInOppositeOrder(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	first := messages("sqs://a", 200)
	for i := range first {
		first[i].ID = uuid.New()
	}
	last := slices.Clone(first)
	slices.Reverse(last)
	for round := range 20 {
		execute(t, pool, `TRUNCATE outbox.messages`)
		var written atomic.Int64
		var producers sync.WaitGroup
		for _, msgs := range [][]outflow.Message{first, last} {
			producers.Go(func() {
				err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
					ids, err := outboxdb.EnqueueIfAbsent(t.Context(), tx, msgs...)
					written.Add(int64(len(ids)))
					return err
				})
				assert.NoError(t, err, "round %d", round)
			})
		}
		producers.Wait()
		require.EqualValues(t, 200, written.Load())
	}
	bySeq := values[uuid.UUID](t, pool, `SELECT id FROM outbox.messages ORDER BY seq`)
	require.Contains(t, [][]uuid.UUID{idsIn(first), idsIn(last)}, bySeq, "seq keeps the call's order")
}

func idsIn(msgs []outflow.Message) (ids []uuid.UUID) {
	for _, m := range msgs {
		ids = append(ids, m.ID)
	}
	return ids
}

// A row that the transaction's snapshot is too old for can't be distinguished from one that is
// not there: Postgres ends the transaction.
func TestEnqueueIfAbsentUnderRepeatableRead(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	m := message("sqs://a")
	m.ID = uuid.New()
	tx, err := pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(t.Context()) }()
	require.Zero(t, count(t, tx))
	enqueue(t, pool, m)
	_, err = outboxdb.EnqueueIfAbsent(t.Context(), tx, m)
	require.Equal(t, "40001", sqlState(err))
}

// Migrations go through a transaction pooler, any number of times and at once.
func TestMigrateThroughPgBouncer(t *testing.T) {
	t.Parallel()
	pool := teststack.NewEmpty(t)
	config := teststack.PgBouncer(t, pool)
	through := another(t, pool, func(c *pgxpool.Config) { *c.ConnConfig = *config.ConnConfig.Copy() })
	var applied atomic.Int64
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			done, err := migrate.Up(t.Context(), through)
			assert.NoError(t, err)
			applied.Add(int64(len(done)))
		})
	}
	all.Wait()
	require.EqualValues(t, len(migrationNames(t)), applied.Load(), "each once")
	for range 3 {
		done, err := migrate.Up(t.Context(), through)
		require.NoError(t, err)
		require.Empty(t, done)
	}
	undone, err := migrate.Down(t.Context(), through)
	require.NoError(t, err)
	require.NotNil(t, undone)
	_, err = migrate.Up(t.Context(), through)
	require.NoError(t, err)
	require.Zero(t, value[int](t, pool, `
		SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
		   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`),
		"no session keeps the lock")
}

// Migrations of a role with hostile settings make the same schema.
func TestMigrateAsAHostileRole(t *testing.T) {
	t.Parallel()
	schemaOf := func(pool *pgxpool.Pool) []string {
		return values[string](t, pool, `
			SELECT pg_get_functiondef(p.oid) FROM pg_proc AS p WHERE p.pronamespace = 'outbox'::regnamespace
			UNION ALL SELECT conrelid::regclass || conname || pg_get_constraintdef(oid)
			  FROM pg_constraint WHERE connamespace = 'outbox'::regnamespace
			UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'outbox' ORDER BY 1`)
	}
	pool := teststack.NewEmpty(t)
	role := newRole(t, pool)
	execute(t, pool, `GRANT CREATE ON DATABASE `+pool.Config().ConnConfig.Database+` TO `+role)
	for _, setting := range hostile {
		execute(t, pool, `ALTER ROLE `+role+` SET `+setting)
	}
	as := another(t, pool, func(c *pgxpool.Config) { c.ConnConfig.User, c.ConnConfig.Password = role, role })
	_, err := migrate.Up(t.Context(), as)
	require.NoError(t, err)
	require.Equal(t, schemaOf(teststack.New(t)), schemaOf(pool))
	status, err := migrate.Status(t.Context(), as)
	require.NoError(t, err)
	require.WithinDuration(t, time.Now(), status[0].AppliedAt, time.Minute)
}

// A chunk that a timeout of the role ends is too slow: the purge makes the next smaller.
func TestPurgeUnderTimeouts(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	ended(t, pool, outflow.Delivered, "3 hours", 3)
	inTx(t, pool, func(tx pgx.Tx) {
		_, err := tx.Exec(t.Context(), `
			LOCK TABLE outbox.messages, outbox.audit, outbox.destinations IN ACCESS EXCLUSIVE MODE`)
		require.NoError(t, err)
		for _, setting := range []string{"statement_timeout", "lock_timeout"} {
			hasty := another(t, pool, func(c *pgxpool.Config) { c.ConnConfig.RuntimeParams[setting] = "50ms" })
			store := outboxdb.New(hasty)
			_, err := store.PurgeMessages(t.Context(), outbox.Purge{State: outflow.Delivered, Limit: 10})
			require.ErrorIs(t, err, context.DeadlineExceeded, setting)
			require.ErrorContains(t, err, "canceling statement due to")
			_, err = outboxdb.New(hasty).PurgeAs(t.Context(),
				outbox.Purge{State: outflow.Delivered, Limit: 10, History: true}, ada.Who, ada.Why)
			require.ErrorIs(t, err, context.DeadlineExceeded, setting)
			_, err = store.PurgeAudit(t.Context(), time.Hour, 10)
			require.ErrorIs(t, err, context.DeadlineExceeded, setting)
			_, err = store.PurgeDestinations(t.Context(), time.Hour, 10)
			require.ErrorIs(t, err, context.DeadlineExceeded, setting)
		}
	})
}

// A database in another encoding takes what it can hold, and says what it can't: the
// words of an error never keep a message from its end.
func TestDatabaseEncodings(t *testing.T) {
	t.Parallel()
	for encoding, can := range map[string]string{"LATIN1": "caf\u00e9", "SQL_ASCII": "cafe", "EUC_JP": "日本"} {
		t.Run(encoding, func(t *testing.T) {
			t.Parallel()
			outer := teststack.NewEmpty(t)
			name := outer.Config().ConnConfig.Database + "_" + strings.ToLower(encoding)
			execute(t, outer, `CREATE DATABASE `+name+` ENCODING '`+encoding+`'
				LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0`)
			t.Cleanup(func() {
				_, err := outer.Exec(context.Background(), `DROP DATABASE `+name+` WITH (FORCE)`)
				require.NoError(t, err)
			})
			pool := another(t, outer, func(c *pgxpool.Config) { c.ConnConfig.Database = name })
			_, err := migrate.Up(t.Context(), pool)
			require.NoError(t, err)

			tx, err := pool.Begin(t.Context())
			require.NoError(t, err)
			defer func() { _ = tx.Rollback(context.Background()) }()
			m := message("sqs://a")
			m.Headers = map[string]string{"who": "\u20ac \U0001F600"}
			_, err = outboxdb.Enqueue(t.Context(), tx, m)
			require.ErrorContains(t, err, "the database's encoding lacks")
			require.NoError(t, tx.Rollback(t.Context()))

			m.Headers, m.Payload = map[string]string{"who": can}, []byte("日本 \u20ac")
			id := enqueue(t, pool, m)[0]
			store := outboxdb.New(pool)
			claimed := claim(t, store, request()).Messages
			require.Len(t, claimed, 1)
			require.Equal(t, m.Headers, claimed[0].Headers)
			require.Equal(t, m.Payload, claimed[0].Payload)
			outcome, err := store.Finish(t.Context(),
				outbox.Ending{Ref: ref(id), State: outflow.Dead, LastError: "日 \u20ac \U0001F600", Attempts: 1})
			require.NoError(t, err)
			require.Equal(t, `\u65e5 \u20ac \U0001f600`, outcome.LastError)
			require.Contains(t, findings(t, pool)["encoding warn"].Text, "the database's encoding is "+encoding)
		})
	}
}
