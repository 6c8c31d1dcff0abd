package outboxtest_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/outboxdb/outboxtest"
)

// failed is a testing.TB that keeps the text with which it was ended.
type failed struct {
	testing.TB
	text string
}

func (f *failed) Helper() {}

func (f *failed) Fatal(args ...any) {
	f.text = fmt.Sprint(args...)
	runtime.Goexit()
}

func (f *failed) Fatalf(format string, args ...any) { f.Fatal(fmt.Sprintf(format, args...)) }

// textOf returns what an assertion ends its test with, or nothing.
func textOf(t *testing.T, assert func(testing.TB)) string {
	t.Helper()
	f := &failed{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		assert(f)
	}()
	<-done
	return f.text
}

func begin(t *testing.T, pool *pgxpool.Pool) pgx.Tx {
	t.Helper()
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	return tx
}

func enqueue(t *testing.T, tx pgx.Tx, msgs ...outflow.Message) []uuid.UUID {
	t.Helper()
	ids, err := outboxdb.Enqueue(t.Context(), tx, msgs...)
	require.NoError(t, err)
	return ids
}

// commit enqueues msgs in a transaction of their own.
func commit(t *testing.T, pool *pgxpool.Pool, msgs ...outflow.Message) []uuid.UUID {
	t.Helper()
	tx := begin(t, pool)
	ids := enqueue(t, tx, msgs...)
	require.NoError(t, tx.Commit(t.Context()))
	return ids
}

// full returns a message with every field set.
func full() outflow.Message {
	return outflow.Message{
		ID:          uuid.MustParse("018f6a3e-7c1b-7d5e-9b1a-2f6f0c9d4e11"),
		Destination: "arn:aws:sqs:eu-west-1:123456789012:orders.fifo", Type: "order-placed",
		Payload: []byte(`{"id": 7, "items": ["teapot"]}`), ContentType: "application/json",
		Headers:     map[string]string{"tenant": "acme", "x": "y"},
		OrderingKey: "customer-42", DueIn: 90 * time.Minute, ExpiresIn: 48 * time.Hour,
		Callback: "arn:aws:sqs:eu-west-1:123456789012:replies",
	}
}

func TestRequireEnqueued(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	tx := begin(t, pool)
	enqueue(t, tx, full(), outflow.Message{Destination: "sqs://mail", Type: "welcome", Payload: []byte{0xff, 0}})
	vague := outflow.Message{}
	mail := outflow.Message{Destination: "sqs://mail"}
	order := outflow.Message{Destination: "sqs://orders.fifo?region=eu-west-1&account=123456789012"}
	other := func(change func(*outflow.Message)) []outflow.Message {
		m := full()
		change(&m)
		return []outflow.Message{m, mail}
	}
	for _, c := range []struct {
		name string
		want []outflow.Message
		text []string // empty: the assertion holds
	}{
		{"every field", []outflow.Message{full(), mail}, nil},
		{"another order", []outflow.Message{mail, full()}, nil},
		{"another form of the destination", []outflow.Message{mail, order}, nil},
		{"a vague one first", []outflow.Message{vague, mail}, nil},
		{"a vague one last", []outflow.Message{mail, vague}, nil},
		{"JSON written otherwise", other(func(m *outflow.Message) {
			m.Payload = []byte(`{"items":["teapot"],"id":7}`)
		}), nil},
		{"some of the headers", other(func(m *outflow.Message) { m.Headers = map[string]string{"x": "y"} }), nil},
		{"too few", []outflow.Message{mail}, []string{"wants 1 messages, of 2 that were enqueued:",
			"\nnot wanted:  order-placed to sqs://orders.fifo?account=123456789012&region=eu-west-1: {\"id\": 7"}},
		{"none", nil, []string{"wants 0 messages, of 2", "not wanted:  order-placed",
			"not wanted:  welcome to sqs://mail: \"\\xff\\x00\""}},
		{"too many", []outflow.Message{mail, full(), {Type: "audit"}},
			[]string{"\nmissing:     audit to any destination"}},
		{"one twice", []outflow.Message{mail, mail},
			[]string{"missing:     any type to sqs://mail\n  closest is order-placed to",
				"Destination: wants sqs://mail, got sqs://orders.fifo?", "not wanted:  order-placed"}},
		{"another ID", other(func(m *outflow.Message) { m.ID = uuid.Max }),
			[]string{"ID: wants ffffffff-ffff-ffff-ffff-ffffffffffff, got 018f6a3e"}},
		{"another type", other(func(m *outflow.Message) { m.Type = "a" }), []string{"Type: wants a, got order-placed"}},
		{"another payload", other(func(m *outflow.Message) { m.Payload = []byte(`{"id": 8}`) }),
			[]string{`Payload: wants {"id": 8}, got {"id": 7, "items": ["teapot"]}`}},
		{"no JSON", other(func(m *outflow.Message) { m.Payload = []byte(`{"id": 7`) }),
			[]string{`Payload: wants {"id": 7, got {"id": 7, `}},
		{"another content type", other(func(m *outflow.Message) { m.ContentType = "a" }),
			[]string{"ContentType: wants a, got application/json"}},
		{"another header", other(func(m *outflow.Message) { m.Headers["x"] = "z" }),
			[]string{`Headers: wants x="z", got "y"`}},
		{"a header more", other(func(m *outflow.Message) { m.Headers["z"] = "z" }),
			[]string{`Headers: wants z="z", got none of this name`}},
		{"another callback", other(func(m *outflow.Message) { m.Callback = "sqs://a" }),
			[]string{"Callback: wants sqs://a, got sqs://replies?account=123456789012&region=eu-west-1"}},
		{"another key", other(func(m *outflow.Message) { m.OrderingKey = "a" }),
			[]string{"OrderingKey: wants a, got customer-42"}},
		{"due sooner", other(func(m *outflow.Message) { m.DueIn = time.Minute }),
			[]string{"DueIn: wants 1m0s, got 1h30m0s"}},
		{"expires sooner", other(func(m *outflow.Message) { m.ExpiresIn = time.Hour }),
			[]string{"ExpiresIn: wants 1h0m0s, got 48h0m0s"}},
		{"due at another time", other(func(m *outflow.Message) { m.DueIn, m.DueAt = 0, time.Unix(0, 0) }),
			[]string{"DueAt: wants "}},
		{"expires at another time", other(func(m *outflow.Message) { m.ExpiresIn, m.ExpiresAt = 0, time.Unix(0, 0) }),
			[]string{"ExpiresAt: wants "}},
		{"an expiry where there is none", []outflow.Message{full(), {Type: "welcome", ExpiresIn: time.Hour}},
			[]string{"ExpiresIn: wants 1h0m0s, got never"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := textOf(t, func(tb testing.TB) { outboxtest.RequireEnqueued(tb, tx, c.want...) })
			if len(c.text) == 0 {
				require.Empty(t, text)
			}
			for _, part := range c.text {
				require.Contains(t, text, part)
			}
		})
	}
	t.Run("times", func(t *testing.T) {
		got := outboxtest.Enqueued(t, tx)
		require.Len(t, got, 2)
		require.Equal(t, "order-placed", got[0].Type)
		require.Equal(t, []byte{0xff, 0}, got[1].Payload)
		require.Zero(t, got[1].ExpiresAt)
		outboxtest.RequireEnqueued(t, tx, got...)
	})
	t.Run("a large payload is cut", func(t *testing.T) {
		large := outflow.Message{Payload: []byte(strings.Repeat("ä", 1000))}
		text := textOf(t, func(tb testing.TB) { outboxtest.RequireEnqueued(tb, tx, vague, large) })
		require.Contains(t, text, "ä… (2000 bytes)")
		require.Less(t, len(text), 2000)
	})
}

// TestScope: a transaction has only its own messages, a pool has all.
func TestScope(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	db := stdlib.OpenDBFromPool(pool)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	old := outflow.Message{Destination: "sqs://old", Type: "old", Payload: []byte("x")}
	fresh := outflow.Message{Destination: "sqs://new", Type: "new", Payload: []byte("x")}

	outboxtest.RequireEnqueued(t, pool)
	outboxtest.RequireEnqueuedSQL(t, db)
	commit(t, pool, old)

	t.Run("pgx", func(t *testing.T) {
		tx := begin(t, pool)
		outboxtest.RequireEnqueued(t, tx)
		enqueue(t, tx, fresh)
		savepoint, err := tx.Begin(t.Context())
		require.NoError(t, err)
		enqueue(t, savepoint, fresh)
		outboxtest.RequireEnqueued(t, savepoint, fresh, fresh)
		require.NoError(t, savepoint.Commit(t.Context()))
		outboxtest.RequireEnqueued(t, tx, fresh, fresh)
		outboxtest.RequireEnqueued(t, tx.Conn(), old, fresh, fresh)
		outboxtest.RequireEnqueued(t, pool, old)
	})
	t.Run("database/sql", func(t *testing.T) {
		tx, err := db.BeginTx(t.Context(), &sql.TxOptions{})
		require.NoError(t, err)
		defer func() { _ = tx.Rollback() }()
		outboxtest.RequireEnqueuedSQL(t, tx)
		_, err = outboxdb.EnqueueSQL(t.Context(), tx, fresh)
		require.NoError(t, err)
		outboxtest.RequireEnqueuedSQL(t, tx, fresh)
		require.Len(t, outboxtest.EnqueuedSQL(t, tx), 1)
		outboxtest.RequireEnqueuedSQL(t, db, old)
	})
	t.Run("the simple protocol", func(t *testing.T) {
		config := pool.Config()
		config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
		plain, err := pgxpool.NewWithConfig(t.Context(), config)
		require.NoError(t, err)
		defer plain.Close()
		outboxtest.RequireEnqueued(t, plain, old)
	})
	t.Run("what has ended does not wait", func(t *testing.T) {
		require.Len(t, outboxtest.Deliver(t, pool, nil), 1)
		outboxtest.RequireEnqueued(t, pool)
	})
}

func TestNoTable(t *testing.T) {
	t.Parallel()
	pool := teststack.NewEmpty(t)
	require.Contains(t, textOf(t, func(tb testing.TB) { outboxtest.RequireEnqueued(tb, pool) }),
		"outboxtest: reading outbox.messages: ")
	require.Contains(t, textOf(t, func(tb testing.TB) { outboxtest.Deliver(tb, pool, nil) }), "outboxtest: ")
}

func TestDeliver(t *testing.T) {
	t.Parallel()
	message := func(kind string) outflow.Message {
		return outflow.Message{Destination: "sqs://orders", Type: kind, Payload: []byte(`{"id":7}`)}
	}
	t.Run("nothing", func(t *testing.T) {
		t.Parallel()
		require.Empty(t, outboxtest.Deliver(t, teststack.New(t), nil))
	})
	t.Run("all that is due, in order, once", func(t *testing.T) {
		t.Parallel()
		pool := teststack.New(t)
		later := message("later")
		later.DueIn = time.Hour
		ids := commit(t, pool, message("a"), message("b"), later, full())
		var published []string
		got := outboxtest.Deliver(t, pool, outboxtest.PublisherFunc(func(m outflow.Message) error {
			published = append(published, m.Type)
			return nil
		}))
		require.Len(t, got, 2)
		for i, d := range got {
			require.Equal(t, ids[i], d.Message.ID)
			require.Equal(t, []byte(`{"id":7}`), d.Message.Payload)
			require.Equal(t, outflow.Delivered, d.Outcome.State)
			require.Equal(t, 1, d.Outcome.Attempts)
		}
		require.Equal(t, []string{"a", "b"}, published)
		require.Empty(t, outboxtest.Deliver(t, pool, nil))
		outboxtest.RequireEnqueued(t, pool, later, full())
	})
	t.Run("the callback", func(t *testing.T) {
		t.Parallel()
		pool := teststack.New(t)
		m := message("a")
		m.Callback = "https://shop.example/done"
		id := commit(t, pool, m)[0]
		var published []string
		got := outboxtest.Deliver(t, pool, outboxtest.PublisherFunc(func(m outflow.Message) error {
			published = append(published, m.Type+" to "+m.Destination+" "+m.Headers[outflow.CallbackIDHeader])
			if m.Type != outflow.CallbackType {
				return nil
			}
			event, err := outflow.DecodeCallback(m.Payload)
			require.NoError(t, err)
			require.Equal(t, m.Headers[outflow.CallbackIDHeader], event.ID())
			require.Equal(t, "a", event.Type)
			if len(published) < 4 {
				return errors.New("connection refused")
			}
			return nil
		}))
		require.Len(t, got, 1)
		callback := "outflow.callback to https://shop.example/done " + id.String() + "_1_delivered"
		require.Equal(t, []string{"a to sqs://orders ", callback, callback, callback}, published)
	})
	t.Run("an outage is over", func(t *testing.T) {
		t.Parallel()
		pool := teststack.New(t)
		commit(t, pool, message("a"))
		calls := 0
		got := outboxtest.Deliver(t, pool, outboxtest.PublisherFunc(func(outflow.Message) error {
			if calls++; calls < 9 {
				return errors.New("connection refused")
			}
			return nil
		}))
		require.Equal(t, 9, calls)
		require.Equal(t, outflow.Delivered, got[0].Outcome.State)
		require.Equal(t, 9, got[0].Outcome.Attempts)
	})
	t.Run("an outage goes on", func(t *testing.T) {
		t.Parallel()
		pool := teststack.New(t)
		commit(t, pool, message("a"))
		text := textOf(t, func(tb testing.TB) {
			outboxtest.Deliver(tb, pool, outboxtest.PublisherFunc(func(outflow.Message) error {
				return errors.New("connection refused")
			}))
		})
		require.Equal(t, `outboxtest: a to sqs://orders: {"id":7} failed 10 times: connection refused`, text)
	})
	t.Run("a permanent refusal", func(t *testing.T) {
		t.Parallel()
		pool := teststack.New(t)
		commit(t, pool, message("a"))
		got := outboxtest.Deliver(t, pool, outboxtest.PublisherFunc(func(outflow.Message) error {
			return outflow.Permanent(errors.New("no such queue"))
		}))
		require.Len(t, got, 1)
		require.Equal(t, outflow.Dead, got[0].Outcome.State)
		require.Equal(t, "no such queue", got[0].Outcome.LastError)
	})
	t.Run("too late", func(t *testing.T) {
		t.Parallel()
		pool := teststack.New(t)
		m := message("a")
		m.ExpiresIn = time.Microsecond
		commit(t, pool, m)
		got := outboxtest.Deliver(t, pool, outboxtest.PublisherFunc(func(outflow.Message) error {
			t.Error("an expired message is published")
			return nil
		}))
		require.Equal(t, outflow.Expired, got[0].Outcome.State)
	})
	t.Run("too late behind another of its key", func(t *testing.T) {
		t.Parallel()
		pool := teststack.New(t)
		first, second, third := message("first"), message("second"), message("third")
		first.OrderingKey, second.OrderingKey, third.OrderingKey = "k", "k", "k"
		second.ExpiresIn, second.Callback = time.Microsecond, "sqs://answers"
		commit(t, pool, first, second, third)
		var published []string
		got := outboxtest.Deliver(t, pool, outboxtest.PublisherFunc(func(m outflow.Message) error {
			published = append(published, m.Type)
			return nil
		}))
		var ended []string
		for _, d := range got {
			ended = append(ended, d.Message.Type+" "+string(d.Outcome.State))
		}
		require.Equal(t, []string{"first delivered", "second expired", "third delivered"}, ended)
		require.Equal(t, []string{"first", outflow.CallbackType, "third"}, published)
	})
	t.Run("what the consumer enqueues", func(t *testing.T) {
		t.Parallel()
		pool := teststack.New(t)
		commit(t, pool, message("first"))
		got := outboxtest.Deliver(t, pool, outboxtest.PublisherFunc(func(m outflow.Message) error {
			if m.Type == "first" {
				commit(t, pool, message("second"))
			}
			return nil
		}))
		require.Len(t, got, 2)
		require.Equal(t, "second", got[1].Message.Type)
	})
	t.Run("hundreds of destinations", func(t *testing.T) {
		t.Parallel()
		pool := teststack.New(t)
		var msgs []outflow.Message
		for i := range 300 {
			m := message("a")
			m.Destination = fmt.Sprintf("https://example.org/%d", i)
			msgs = append(msgs, m)
		}
		commit(t, pool, msgs...)
		require.Len(t, outboxtest.Deliver(t, pool, nil), 300)
	})
}
