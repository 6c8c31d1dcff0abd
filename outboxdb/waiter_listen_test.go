package outboxdb_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb"
)

// between is a Postgres whose notifications can be dropped on the way, as a
// transaction pooler drops them, or everything it says.
type between struct {
	dropNotifications, dropAll atomic.Bool
	listener                   net.Listener
	server                     string
	mu                         sync.Mutex
	open                       []net.Conn
	copies                     sync.WaitGroup
}

// newBetween returns it with the settings of a connection through it.
func newBetween(t *testing.T, pool *pgxpool.Pool) (*between, *pgx.ConnConfig) {
	t.Helper()
	config := pool.Config().ConnConfig
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	b := &between{listener: listener, server: net.JoinHostPort(config.Host, strconv.Itoa(int(config.Port)))}
	b.copies.Go(b.accept)
	t.Cleanup(func() {
		_ = listener.Close()
		b.mu.Lock()
		for _, conn := range b.open {
			_ = conn.Close()
		}
		b.mu.Unlock()
		b.copies.Wait()
	})
	config.Host, config.Port = "127.0.0.1", uint16(listener.Addr().(*net.TCPAddr).Port)
	return b, config
}

func (b *between) accept() {
	for {
		client, err := b.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", b.server)
		if err != nil {
			_ = client.Close()
			continue
		}
		b.mu.Lock()
		b.open = append(b.open, client, server)
		b.mu.Unlock()
		silent := b.dropAll.Load() // later connections are fine
		b.copies.Go(func() {
			_, _ = io.Copy(server, client)
			_ = server.Close()
		})
		b.copies.Go(func() {
			b.answers(client, server, silent)
			_ = client.Close()
		})
	}
}

// answers passes the server's messages on: a type, a length, a body.
func (b *between) answers(client io.Writer, server io.Reader, wasSilent bool) {
	for {
		head := make([]byte, 5)
		if _, err := io.ReadFull(server, head); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(head[1:])-4)
		if _, err := io.ReadFull(server, body); err != nil {
			return
		}
		if b.dropNotifications.Load() && head[0] == 'A' || b.dropAll.Load() && !wasSilent {
			continue
		}
		if _, err := client.Write(append(head, body...)); err != nil {
			return
		}
	}
}

func TestWaitPollsWhereNothingIsHeard(t *testing.T) {
	t.Parallel()
	for name, listenOn := range map[string]func(*testing.T, *pgxpool.Pool) *pgx.ConnConfig{
		"no connection": func(_ *testing.T, pool *pgxpool.Pool) *pgx.ConnConfig {
			config := pool.Config().ConnConfig
			config.Host, config.Port, config.Fallbacks = "127.0.0.1", 1, nil
			return config
		},
		"a pooler drops notifications": func(t *testing.T, pool *pgxpool.Pool) *pgx.ConnConfig {
			b, config := newBetween(t, pool)
			b.dropNotifications.Store(true)
			return config
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := teststack.New(t)
			own, tr := traced(t, pool)
			var logged syncBuffer
			w := newWaiter(t, own, outboxdb.ListenOn(listenOn(t, pool)), outboxdb.LogTo(slog.New(slog.NewTextHandler(&logged, nil))))
			w.SetTimes(time.Minute, time.Minute, 200*time.Millisecond)
			ids := enqueue(t, pool, messages("sqs://orders", 100)...)
			var all []<-chan answer
			for _, id := range ids {
				all = append(all, wait(t, w, id))
			}
			require.Eventually(t, func() bool { return logged.contains("polled") }, 10*time.Second, 5*time.Millisecond)
			tr.take()
			began := time.Now()
			deliver(t, pool, ids...)
			for _, answers := range all {
				requireAnswer(t, answers)
			}
			assert.Less(t, time.Since(began), time.Minute)
			assert.LessOrEqual(t, looks(tr), 10, "they are asked for together")
			assert.False(t, w.Hears())
		})
	}
}

type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) contains(text string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Contains(b.buf.Bytes(), []byte(text))
}

func TestWaitSurvivesItsConnection(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	w := newWaiter(t, pool)
	ids := enqueue(t, pool, messages("sqs://orders", 5)...)
	last := wait(t, w, ids[4])
	hears(t, w)
	for _, id := range ids[:4] {
		answers := wait(t, w, id)
		waitFor(t, pool, `SELECT count(pg_terminate_backend(pid)) = 1 FROM pg_stat_activity WHERE datname = current_database() AND query = $1`, outboxdb.StatementListen)
		deliver(t, pool, id) // nobody hears that, or hardly anybody
		requireAnswer(t, answers)
		hears(t, w)
		require.Eventually(t, func() bool { return listening(t, pool) == 1 }, 10*time.Second, 10*time.Millisecond)
		require.Eventually(t, func() bool { // the old one is gone, or has run out
			return value[bool](t, pool, `SELECT count(*) = 1 FROM outbox.waiters AS w WHERE w.expires_at > now()`)
		}, 90*time.Second, 10*time.Millisecond)
	}
	requireNoAnswer(t, last)
	deliver(t, pool, ids[4])
	requireAnswer(t, last)
}

// A connection that says nothing any more looks like one that has nothing to say.
func TestWaitNoticesASilentConnection(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	b, config := newBetween(t, pool)
	w := newWaiter(t, pool, outboxdb.ListenOn(config))
	w.SetTimes(time.Minute, 200*time.Millisecond, 300*time.Millisecond)
	ids := enqueue(t, pool, messages("sqs://orders", 2)...)
	first, second := wait(t, w, ids[0]), wait(t, w, ids[1])
	hears(t, w)
	b.dropAll.Store(true)
	deliver(t, pool, ids[0])
	requireAnswer(t, first)
	hears(t, w) // on a new connection
	deliver(t, pool, ids[1])
	requireAnswer(t, second)
}

// A statement that found nobody registered commits after the message was looked at.
func TestWaitRegistersBesideAnEnd(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	ids := enqueue(t, pool, messages("sqs://orders", 2)...)
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	_, err = tx.Exec(t.Context(), outboxdb.StatementFinish, ids[:1], []int{1}, []string{"delivered"}, []*string{nil}, []*string{nil}, []int{1})
	require.NoError(t, err)

	own, tr := traced(t, pool)
	w := newWaiter(t, own)
	w.SetSettle(time.Minute)
	first, second := wait(t, w, ids[0]), wait(t, w, ids[1])
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.waiters)`)
	tr.take()
	require.Eventually(t, func() bool { return looks(tr) > 0 }, 10*time.Second, time.Millisecond)
	require.False(t, w.Hears(), "it could miss that end")
	requireNoAnswer(t, first)
	require.NoError(t, tx.Commit(t.Context()))
	requireAnswer(t, first)
	hears(t, w)
	requireNoAnswer(t, second)
	deliver(t, pool, ids[1])
	requireAnswer(t, second)
}

// The statement's own snapshot is from before the registration: it has to look for
// waiters in a later one.
func TestAnEndThatBeganBeforeIsHeard(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
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
		_, err := pool.Exec(context.Background(), outboxdb.StatementFinish, []uuid.UUID{id}, []int{1}, []string{"delivered"}, []*string{nil}, []*string{nil}, []int{1})
		ended <- err
	}()
	waitFor(t, pool, waitsForLock)
	own, tr := traced(t, pool)
	w := newWaiter(t, own)
	w.SetSettle(0) // it does not wait for that one
	answers := wait(t, w, id)
	hears(t, w)
	require.Eventually(t, func() bool { return looks(tr) == 0 }, 10*time.Second, 100*time.Millisecond)
	requireNoAnswer(t, answers)
	require.NoError(t, holder.Rollback(t.Context()))
	requireAnswer(t, answers)
	require.NoError(t, <-ended)
}

// What is heard while a look is under way is looked at again: that look may have
// begun before the end.
func TestWaitHearsBesideALook(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	w := newWaiter(t, pool)
	ids := enqueue(t, pool, messages("sqs://orders", 2)...)
	answers, other := wait(t, w, ids[0]), wait(t, w, ids[1])
	hears(t, w)
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	_, err = tx.Exec(t.Context(), `LOCK TABLE outbox.messages`)
	require.NoError(t, err)
	execute(t, pool, `SELECT pg_notify('outflow_ended', $1)`, outboxdb.NoticeOf(ids[0]))
	waitFor(t, pool, waitsForLock)
	_, err = tx.Exec(t.Context(), `UPDATE outbox.messages SET state = 'delivered', finished_at = now() WHERE id = $1`, ids[0]) // tells nobody
	require.NoError(t, err)
	execute(t, pool, `SELECT pg_notify('outflow_ended', $1)`, outboxdb.NoticeOf(ids[0]))
	require.Eventually(t, func() bool { return w.Told(ids[0]) }, 10*time.Second, time.Millisecond)
	require.NoError(t, tx.Commit(t.Context()))
	requireAnswer(t, answers)
	requireNoAnswer(t, other)
}

// What anybody may send on the channel costs a look at most.
func TestWaitHearsNonsense(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	w := newWaiter(t, pool)
	id := enqueue(t, pool, message("sqs://orders"))[0]
	answers := wait(t, w, id)
	hears(t, w)
	for _, payload := range []string{"", ",", "nonsense", "waiter", "waiter " + uuid.NewString(), id.String() + ",", uuid.NewString(), id.String()} {
		execute(t, pool, `SELECT pg_notify('outflow_ended', $1)`, payload)
	}
	deliver(t, pool, id)
	requireAnswer(t, answers)
}
