package outboxdb_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/operator"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/outboxdb/migrations"
)

// listener hears everything on the channel.
type listener struct {
	*testing.T
	pool *pgxpool.Pool
	conn *pgx.Conn
}

func newListener(t *testing.T, pool *pgxpool.Pool) *listener {
	t.Helper()
	conn, err := pgx.ConnectConfig(t.Context(), pool.Config().ConnConfig)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	_, err = conn.Exec(t.Context(), "LISTEN outflow_ended")
	require.NoError(t, err)
	return &listener{t, pool, conn}
}

// heard returns what was sent until now: notifications arrive in the order of
// their commits.
func (l *listener) heard() (payloads []string) {
	l.Helper()
	mark := "mark " + uuid.NewString()
	execute(l, l.pool, `SELECT pg_notify('outflow_ended', $1)`, mark)
	ctx, cancel := context.WithTimeout(l.Context(), 20*time.Second)
	defer cancel()
	for {
		n, err := l.conn.WaitForNotification(ctx)
		require.NoError(l, err)
		if n.Payload == mark {
			return payloads
		}
		payloads = append(payloads, n.Payload)
	}
}

// waysToEnd are the ways in which messages end, each in one statement. Whoever adds
// one meets TestEveryEndNotifies first.
var waysToEnd = map[string]func(t *testing.T, pool *pgxpool.Pool, ids []uuid.UUID){
	"finishSQL": func(t *testing.T, pool *pgxpool.Pool, ids []uuid.UUID) { deliver(t, pool, ids...) },
	"finishPageSQL": func(t *testing.T, pool *pgxpool.Pool, ids []uuid.UUID) {
		var ends []outbox.Ending
		for _, id := range ids {
			ends = append(ends, outbox.Ending{Ref: ref(id), State: outflow.Delivered, Attempts: 1, Streamed: true})
		}
		finish(t, outboxdb.New(pool), ends...)
	},
	"requestCancelSQL": func(t *testing.T, pool *pgxpool.Pool, ids []uuid.UUID) {
		cancelled, err := outboxdb.New(pool).RequestCancel(t.Context(), ids, ada.Who, ada.Why)
		require.NoError(t, err)
		for _, c := range cancelled {
			require.Equal(t, outflow.Cancelled, c.State)
		}
	},
	"endCancelledSQL": func(t *testing.T, pool *pgxpool.Pool, ids []uuid.UUID) {
		execute(t, pool, `UPDATE outbox.messages SET cancel_requested = true`)
		_, err := pool.Exec(t.Context(), outboxdb.StatementEndCancelled, ids, "ada", "", 1)
		require.NoError(t, err)
		require.Zero(t, value[int](t, pool,
			`SELECT count(*) FROM outbox.messages WHERE state <> 'cancelled' AND id = ANY ($1)`, ids))
	},
	"endMissingSQL": missed,
	"expireFollowersSQL": func(t *testing.T, pool *pgxpool.Pool, ids []uuid.UUID) {
		execute(t, pool, `UPDATE outbox.messages SET ordering_key = 'k', follower = true, parked = true,
			available_at = '9999-12-31Z' WHERE id = ANY ($1)`, ids)
		expire(t, pool, ids...)
		_, err := pool.Exec(t.Context(), outboxdb.StatementExpireFollowers, "sqs://orders", "k", 1000)
		require.NoError(t, err)
		require.Zero(t, value[int](t, pool,
			`SELECT count(*) FROM outbox.messages WHERE state <> 'expired' AND id = ANY ($1)`, ids))
	},
}

// missed ends the messages ids, whose destination has been missing for longer than they may wait.
func missed(t *testing.T, pool *pgxpool.Pool, ids []uuid.UUID) {
	execute(t, pool, `INSERT INTO outbox.destinations AS h (destination, missing_since, missing_reason, failing_since, failed_at, openings, open_until)
		SELECT DISTINCT destination, now() - interval '1 hour', 'no such queue', now(), now(), 1, now() FROM outbox.messages WHERE id = ANY ($1)
		    ON CONFLICT (destination) DO UPDATE SET failed_at = now()`, ids)
	_, err := pool.Exec(t.Context(), outboxdb.StatementEndMissing, "0", 1000, true)
	require.NoError(t, err)
	require.Zero(t, value[int](t, pool,
		`SELECT count(*) FROM outbox.messages WHERE state <> 'dead' AND id = ANY ($1)`, ids))
}

func TestEndsAreToldOnce(t *testing.T) {
	t.Parallel()
	for name, end := range waysToEnd {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := teststack.New(t)
			l := newListener(t, pool)
			take := func(n int) []uuid.UUID { return enqueue(t, pool, messages("sqs://orders", n)...) }

			end(t, pool, take(3))
			require.Empty(t, l.heard(), "nobody waits")

			waiter := uuid.New()
			execute(t, pool, `SELECT outbox.keep_waiter($1)`, waiter)
			require.Equal(t, []string{"waiter " + keyOf(waiter)}, l.heard())
			for _, n := range []int{1, 100, 600} {
				ids := take(n)
				end(t, pool, ids)
				heard := l.heard()
				require.Len(t, heard, 1)
				var want []string
				for _, id := range ids {
					want = append(want, keyOf(id))
				}
				require.ElementsMatch(t, want, strings.Split(heard[0], ","))
			}
			end(t, pool, take(601))
			require.Equal(t, []string{""}, l.heard(), "too many to name")

			// A registration that nobody renewed does not count.
			execute(t, pool, `UPDATE outbox.waiters SET expires_at = now()`)
			end(t, pool, take(3))
			require.Empty(t, l.heard())
			other := uuid.New()
			execute(t, pool, `SELECT outbox.keep_waiter($1)`, other)
			require.Equal(t, []uuid.UUID{other}, values[uuid.UUID](t, pool, `SELECT id FROM outbox.waiters`),
				"and is gone with the next one")
			execute(t, pool, `SELECT outbox.drop_waiter($1)`, other)
			l.heard()
			end(t, pool, take(3))
			require.Empty(t, l.heard())
		})
	}
}

// To listen needs no right. What is heard is no ID: with one, a producer could ask how
// another's message ended, or drop another's waiter.
func TestWhatIsHeardGivesNothingAway(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	as, _ := granted(t, pool, func(role string) operator.Grants { return operator.Grants{Producers: []string{role}} })
	l := newListener(t, as)
	ids := enqueue(t, pool, messages("sqs://orders", 2)...)
	_, answers := startWait(t, pool, pool, ids[0])
	deliver(t, pool, ids...)
	require.Equal(t, outflow.Delivered, requireAnswer(t, answers).State)

	heard := strings.Join(l.heard(), ",")
	require.Contains(t, heard, keyOf(ids[0]))
	secrets := append(values[string](t, pool, `SELECT id::text FROM outbox.waiters`), ids[0].String(), ids[1].String())
	require.Len(t, secrets, 3)
	for _, secret := range secrets {
		plain := strings.ReplaceAll(secret, "-", "")
		for i := 0; i+8 <= len(plain); i++ {
			require.NotContains(t, strings.ReplaceAll(heard, "-", ""), plain[i:i+8])
		}
	}
}

// Only ends notify: not what a claim, an attempt, a request or a new start does.
func TestOnlyEndsAreTold(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	l := newListener(t, pool)
	store, o := outboxdb.New(pool), operator.New(pool, nil, "")
	execute(t, pool, `SELECT outbox.keep_waiter($1)`, uuid.New())
	require.Len(t, l.heard(), 1)

	ids := enqueue(t, pool, messages("sqs://orders", 3)...)
	m := claim(t, store, request()).Messages
	require.Len(t, m, 3)
	require.NoError(t, store.GiveBack(t.Context(), m[2], outbox.NotStarted))
	_, err := store.Renew(t.Context(), outbox.Renewal{Ref: ref(ids[0]), Lease: time.Minute, LastError: "throttled"})
	require.NoError(t, err)
	cancelled, err := store.RequestCancel(t.Context(), ids[:2], ada.Who, ada.Why)
	require.NoError(t, err)
	require.Equal(t, outflow.Pending, cancelled[0].State, "its run decides")
	require.Empty(t, l.heard())

	deliver(t, pool, ids...)
	require.Len(t, l.heard(), 1)
	deliver(t, pool, ids...)
	require.Empty(t, l.heard(), "they have ended before")
	dead := finished(t, pool, message("sqs://orders"), outflow.Dead)
	require.Len(t, l.heard(), 1)
	_, err = o.Retry(t.Context(), []uuid.UUID{dead}, ada)
	require.NoError(t, err)
	require.Empty(t, l.heard())
}

// The statement's own snapshot is from before the registration: it has to look for waiters
// in a later one.
func TestAnEndThatBeganBeforeIsNotified(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	l := newListener(t, pool)
	id := enqueue(t, pool, message("sqs://orders"))[0]
	holder, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = holder.Rollback(context.Background()) }()
	_, err = holder.Exec(t.Context(), `SELECT pg_advisory_xact_lock(1)`)
	require.NoError(t, err)
	execute(t, pool, `CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NEW; END $$`)
	execute(t, pool, `CREATE TRIGGER slow BEFORE UPDATE ON outbox.messages FOR EACH ROW EXECUTE FUNCTION slow()`)
	ended := make(chan error, 1)
	go func() {
		_, err := outboxdb.New(pool).Finish(context.Background(),
			outbox.Ending{Ref: ref(id), State: outflow.Delivered, Attempts: 1})
		ended <- err
	}()
	waitFor(t, pool, waitsForLock)
	execute(t, pool, `SELECT outbox.keep_waiter($1)`, uuid.New())
	require.Len(t, l.heard(), 1)
	require.NoError(t, holder.Rollback(t.Context()))
	require.NoError(t, <-ended)
	require.Equal(t, []string{keyOf(id)}, l.heard())
}

// keyOf stands for an ID in a notification.
func keyOf(id uuid.UUID) string {
	sum := sha256.Sum256(id[:])
	return hex.EncodeToString(sum[:6])
}

// finishes is an assignment of an end; "finished_at = NULL" takes one back.
var finishes = regexp.MustCompile(`(?i)\bfinished_at\s*=\s*(?:[^Nn>\s]|N[^Uu]|now)`)

// TestEveryEndNotifies finds the statements that end messages: all are constants of this package,
// contain endRowsSQL and endedSQL, which notifies waiters, and stand in the table above.
func TestEveryEndNotifies(t *testing.T) {
	t.Parallel()
	require.True(t, finishes.MatchString("SET finished_at = now()"))
	require.True(t, finishes.MatchString("finished_at = CASE WHEN x THEN now() END"))
	require.False(t, finishes.MatchString("finished_at = NULL, m.finished_at >= $3 AND finished_at IS NULL"))

	found, constants := map[string]string{}, stringConstants(t)
	for name, text := range constants {
		if finishes.MatchString(text) {
			found[name] = text
		}
	}
	var names []string
	for name := range waysToEnd {
		names = append(names, name)
	}
	var ends []string
	end, ended := found["endRowsSQL"], constants["endedSQL"]
	require.Contains(t, ended, "outbox.notify_waiters(")
	delete(found, "endRowsSQL")
	for name, text := range found {
		ends = append(ends, name)
		assert.Contains(t, text, end, "%s ends messages in its own way", name)
		assert.Contains(t, text, ended, "%s tells nobody", name)
		assert.Len(t, finishes.FindAllString(text, -1), 1, "%s ends messages in a second way", name)
		assert.Contains(t, text, "(SELECT count(*) FROM notified) > 0", "%s: else Postgres leaves that out", name)
	}
	assert.ElementsMatch(t, names, ends)

	// Nobody else ends messages by a statement of their own.
	err := filepath.WalkDir("..", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == "devstack" || entry.Name() == "bench" || entry.Name() == "outboxdb" ||
			strings.HasPrefix(entry.Name(), ".") && entry.Name() != ".."):
			return filepath.SkipDir
		case entry.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(name)
		assert.False(t, strings.Contains(string(text), "outbox.messages") && finishes.Match(text), "%s ends messages",
			name)
		return err
	})
	require.NoError(t, err)
	files, err := fs.Glob(migrations.Files, "*.up.sql")
	require.NoError(t, err)
	for _, name := range files {
		text, err := fs.ReadFile(migrations.Files, name)
		require.NoError(t, err)
		assert.NotRegexp(t, finishes, string(text), name)
	}
}

// stringConstants are the package's own, as the compiler puts them together.
func stringConstants(t *testing.T) map[string]string {
	t.Helper()
	files := token.NewFileSet()
	var parsed []*ast.File
	names, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(files, name, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		parsed = append(parsed, file)
	}
	ignore := types.Config{Error: func(error) {}, IgnoreFuncBodies: true} // what is imported is no concern here
	pkg, _ := ignore.Check("outboxdb", files, parsed, nil)
	texts := map[string]string{}
	for _, name := range pkg.Scope().Names() {
		if c, ok := pkg.Scope().Lookup(name).(*types.Const); ok && c.Val().Kind() == constant.String {
			texts[name] = constant.StringVal(c.Val())
		}
	}
	require.Contains(t, texts, "finishSQL")
	return texts
}

// What a statement pays for the question whether there are waiters, where there are none.
func TestNotifyingNoWaiterIsCheap(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	ids := enqueue(t, pool, messages("sqs://orders", 20)...)
	var words, ones, ends, nulls, tracked []string
	for _, id := range ids {
		words, ones, ends, nulls = append(words, id.String()), append(ones, "1"), append(ends,
			"delivered"), append(nulls, "NULL")
		tracked = append(tracked, "false")
	}
	const notifies = "outbox.notify_waiters(ARRAY(SELECT e.id FROM ended AS e))"
	silent := strings.Replace(outboxdb.StatementFinish, notifies, "count(*) FROM ended", 1)
	require.NotEqual(t, outboxdb.StatementFinish, silent)
	buffers := func(statement string) int {
		p := teststack.Explain(t, pool, "force_generic_plan", statement, words, ones, ends, nulls, nulls, ones, "true", tracked)
		require.EqualValues(t, 20, p.Rows)
		return p.Buffers()
	}
	buffers(silent) // the first time fills the session's caches
	buffers(outboxdb.StatementFinish)
	// Each leaves dead rows to the next, which are pruned at some time: so in turn.
	const rounds = 4
	with, without := 0, 0
	for range rounds / 2 {
		without += buffers(silent)
		with += buffers(outboxdb.StatementFinish)
		with += buffers(outboxdb.StatementFinish)
		without += buffers(silent)
	}
	t.Logf("%d buffers for %d times 20 ends without a waiter; %d without the question", with, rounds, without)
	require.Less(t, with, without+rounds*10, "half a buffer for each end")
}
