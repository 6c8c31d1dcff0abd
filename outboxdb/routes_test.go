package outboxdb_test

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
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
)

func setRoute(t testing.TB, o *operator.Operator, messageType string, destinations ...string) {
	t.Helper()
	for _, d := range destinations {
		require.NoError(t, o.SetRoute(t.Context(), operator.Route{Type: messageType, Destination: d}, ada))
	}
}

// unsetRoute deletes routes, the last one too.
func unsetRoute(t testing.TB, o *operator.Operator, messageType string, destinations ...string) {
	t.Helper()
	for _, d := range destinations {
		found, err := o.UnsetRoute(t.Context(), operator.Route{Type: messageType, Destination: d}, true, ada)
		require.NoError(t, err)
		require.True(t, found)
	}
}

// routed returns a message by route. Its type is the name of the test, so that subtests share a
// database.
func routed(t testing.TB) outflow.Message {
	m := message(outflow.ByRoute)
	m.ID, m.Type = uuid.Must(uuid.NewV7()), typeOf(t)
	return m
}

func typeOf(t testing.TB) string {
	return strings.NewReplacer(",", "", "'", "").Replace(t.Name())
}

// group is the messages of a group, in the order of their places.
func group(t testing.TB, q queryer, id uuid.UUID) (destinations []string) {
	t.Helper()
	places := values[int](t, q, `SELECT group_place FROM outbox.messages WHERE group_id = $1 ORDER BY group_place`, id)
	destinations = values[string](t, q,
		`SELECT destination FROM outbox.messages WHERE group_id = $1 ORDER BY group_place`, id)
	for i := range places {
		require.Equal(t, i+1, places[i])
	}
	return destinations
}

const toOrders, toAudit, toHook = "sqs://orders", "sqs://audit.fifo?region=eu-west-1", "https://shop.example/in?token=t"

func TestEnqueueByRoute(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := operator.New(pool, nil, "")
	t.Run("a message for each route", func(t *testing.T) {
		setRoute(t, o, typeOf(t), toOrders, toAudit, toHook)
		setRoute(t, o, "another", "sqs://another")
		m := routed(t)
		m.Headers, m.OrderingKey, m.ContentType = map[string]string{"tenant": "acme"}, "customer-7", "text/plain"
		m.DueIn, m.ExpiresIn = time.Hour, 2*time.Hour
		require.Equal(t, []uuid.UUID{m.ID}, enqueue(t, pool, m))
		require.Equal(t, []string{toHook, toAudit, toOrders}, group(t, pool, m.ID))
		for _, d := range []string{toOrders, toAudit, toHook} {
			got, err := outboxdb.New(pool).Load(t.Context(), ref(outflow.RoutedID(m.ID, d)))
			require.NoError(t, err, "its ID is that of group and destination")
			require.Equal(t, time.Hour, got.DueAt.Sub(got.EnqueuedAt))
			require.Equal(t, 2*time.Hour, got.ExpiresAt.Sub(got.EnqueuedAt))
			want := m
			want.ID, want.Destination = got.ID, d
			want.DueIn, want.ExpiresIn, want.DueAt, want.ExpiresAt = 0, 0, got.DueAt, got.ExpiresAt
			require.Equal(t, want, got.Message)
		}
	})
	t.Run("a type with one route", func(t *testing.T) {
		setRoute(t, o, typeOf(t), toOrders)
		m := routed(t)
		require.Equal(t, []uuid.UUID{m.ID}, enqueue(t, pool, m))
		require.Equal(t, []string{toOrders}, group(t, pool, m.ID))
		require.Zero(t, value[int](t, pool, `SELECT count(*) FROM outbox.messages WHERE id = $1`, m.ID))
	})
	t.Run("a new group", func(t *testing.T) {
		setRoute(t, o, typeOf(t), toOrders)
		m := routed(t)
		m.ID = uuid.Nil
		ids := enqueue(t, pool, m, m)
		require.NotEqual(t, ids[0], ids[1])
		for _, id := range ids {
			require.EqualValues(t, 7, id.Version())
			require.Len(t, group(t, pool, id), 1)
		}
	})
	t.Run("the route none alone", func(t *testing.T) {
		setRoute(t, o, typeOf(t), outflow.RouteToNowhere)
		before := count(t, pool)
		m := routed(t)
		require.Equal(t, []uuid.UUID{m.ID}, enqueue(t, pool, m))
		inTx(t, pool, func(tx pgx.Tx) {
			written, err := outboxdb.EnqueueIfAbsent(t.Context(), tx, m)
			require.NoError(t, err)
			require.Empty(t, written)
		})
		require.Equal(t, before, count(t, pool))
		m.Payload = nil
		inTx(t, pool, func(tx pgx.Tx) {
			_, err := outboxdb.Enqueue(t.Context(), tx, m)
			require.ErrorContains(t, err, "payload: wants 1 to", "bad input is refused all the same")
		})
	})
	t.Run("the route none beside another", func(t *testing.T) {
		setRoute(t, o, typeOf(t), outflow.RouteToNowhere, toOrders)
		require.Equal(t, []string{toOrders}, group(t, pool, enqueue(t, pool, routed(t))[0]))
	})
	t.Run("a type that differs in capitals", func(t *testing.T) {
		setRoute(t, o, typeOf(t), toOrders)
		m := routed(t)
		m.Type = strings.ToUpper(m.Type)
		inTx(t, pool, func(tx pgx.Tx) {
			_, err := outboxdb.Enqueue(t.Context(), tx, m)
			require.ErrorContains(t, err, "type: "+wantsRoute(m.Type))
		})
	})
	t.Run("a payload that one route does not take", func(t *testing.T) {
		setRoute(t, o, typeOf(t), toOrders, toHook)
		m := routed(t)
		m.Payload = make([]byte, 1<<20+1)
		inTx(t, pool, func(tx pgx.Tx) {
			_, err := outboxdb.Enqueue(t.Context(), tx, message(toOrders), m)
			require.ErrorContains(t, err, "message 1: payload: wants at most 1048576 bytes for sqs (got 1048577)")
			require.Empty(t, group(t, tx, m.ID), "it goes nowhere")
		})
	})
	t.Run("too much in all messages", func(t *testing.T) {
		var hooks []string
		for _, path := range strings.Split("abcdefghijklmnopq", "") {
			hooks = append(hooks, "https://shop.example/"+path)
		}
		setRoute(t, o, typeOf(t), hooks...)
		m := routed(t)
		m.Payload = make([]byte, 16<<20)
		inTx(t, pool, func(tx pgx.Tx) {
			_, err := outboxdb.Enqueue(t.Context(), tx, m)
			require.ErrorContains(t, err,
				"payload: wants at most 268435456 bytes in all messages that a call writes by route")
		})
		require.Empty(t, group(t, pool, m.ID))
	})
	t.Run("the zero ID", func(t *testing.T) {
		setRoute(t, o, typeOf(t), toOrders)
		_, err := pool.Exec(t.Context(), `SELECT outbox.enqueue('routes', $1, 'x'::text, id => $2)`, typeOf(t),
			uuid.Nil)
		require.ErrorContains(t, err, "id: wants a UUID other than the zero one")
	})
	t.Run("no callback by route", func(t *testing.T) {
		setRoute(t, o, typeOf(t), toOrders)
		m := routed(t)
		m.Callback = outflow.ByRoute
		inTx(t, pool, func(tx pgx.Tx) {
			_, err := outboxdb.Enqueue(t.Context(), tx, m)
			require.ErrorContains(t, err, "callback: wants none, sqs://queue")
		})
	})
}

// Each driver, and SQL, writes the same messages and returns the group's ID.
func TestEnqueueByRouteByEveryDriver(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	setRoute(t, operator.New(pool, nil, ""), "user-registered", toOrders, toHook)
	for _, d := range drivers(t, pool) {
		t.Run(d.name, func(t *testing.T) {
			s := d.open(t)
			ids, err := s.enqueue(t.Context(), message(toAudit), message(outflow.ByRoute))
			require.NoError(t, err)
			again := message(outflow.ByRoute)
			again.ID = ids[1]
			written, err := s.enqueueIfAbsent(t.Context(), again)
			require.NoError(t, err)
			require.Empty(t, written)
			require.NoError(t, s.commit(t.Context()))
			require.Equal(t, []string{toHook, toOrders}, group(t, pool, ids[1]))
		})
	}
	t.Run("SQL", func(t *testing.T) {
		id := value[uuid.UUID](t, pool, enqueueOne, arguments(message(outflow.ByRoute))...)
		require.Equal(t, []string{toHook, toOrders}, group(t, pool, id))
		_, err := pool.Exec(t.Context(), `SELECT outbox.enqueue('routes', 'user-registered', 'x'::text, id => $1)`, id)
		require.ErrorContains(t, err, "id: a message with the ID "+id.String()+" was enqueued before")
		require.Equal(t, "23505", sqlState(err))
		require.Equal(t, id, value[uuid.UUID](t, pool,
			`SELECT outbox.enqueue('routes', 'user-registered', 'x'::text, id => $1, if_absent => true)`, id))
	})
}

// In one call, messages by route and others keep their places in what is returned and in the
// order of seq.
func TestEnqueueByRouteAmongOthers(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := operator.New(pool, nil, "")
	setRoute(t, o, "fan", "sqs://a", "sqs://b")
	setRoute(t, o, "quiet", outflow.RouteToNowhere)
	of := func(messageType string) outflow.Message {
		m := routed(t)
		m.Type = messageType
		return m
	}
	verdicts := func(msgs []outflow.Message, ifAbsent bool) (all []string) {
		tx, err := pool.Begin(t.Context())
		require.NoError(t, err)
		defer func() { require.NoError(t, tx.Commit(context.Background())) }()
		for i, v := range outboxdb.Verdicts(t, tx, msgs, ifAbsent) {
			require.Equal(t, msgs[i].ID, v.ID)
			all = append(all, string(v.Verdict))
		}
		return all
	}
	first, last := message("sqs://first"), message("sqs://last")
	first.ID, last.ID = uuid.Must(uuid.NewV7()), uuid.Must(uuid.NewV7())
	fan, quiet, unknown := of("fan"), of("quiet"), of("unknown")

	require.Equal(t, []string{"withdrawn", "withdrawn", "refused: type: " + wantsRoute("unknown"), "nowhere"},
		verdicts([]outflow.Message{first, fan, unknown, quiet}, true))
	require.Zero(t, count(t, pool), "nothing is written where one is refused")
	require.Equal(t, []string{"enqueued", "enqueued", "nowhere", "enqueued"},
		verdicts([]outflow.Message{first, fan, quiet, last}, false))
	require.Equal(t, []string{"sqs://first", "sqs://a", "sqs://b", "sqs://last"},
		values[string](t, pool, `SELECT destination FROM outbox.messages ORDER BY seq`))
	other := of("fan")
	require.Equal(t, []string{"exists", "exists", "withdrawn", "nowhere"},
		verdicts([]outflow.Message{first, fan, other, quiet}, false))
	require.Equal(t, []string{"exists", "exists", "enqueued", "nowhere"},
		verdicts([]outflow.Message{first, fan, other, quiet}, true))
	require.Equal(t, []string{"exists", "refused: type: " + wantsRoute("unknown"), "withdrawn"},
		verdicts([]outflow.Message{fan, unknown, of("fan")}, true))
	require.Equal(t, 6, count(t, pool))
}

// TestRoutedIDIsThatOfTheMigration: whoever has the group's ID can compute the messages'.
func TestRoutedIDIsThatOfTheMigration(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	for _, d := range []string{toOrders, toHook, "rabbitmq://e/%C3%BC", "www.example.com"} {
		for _, id := range []uuid.UUID{uuid.NameSpaceDNS, uuid.New()} {
			require.Equal(t, outflow.RoutedID(id, d),
				value[uuid.UUID](t, pool, `SELECT outbox.routed_id($1, $2)`, id, d))
		}
	}
}

// Each message has its own callback rule, by its destination; a callback of the message's own is
// each one's.
func TestCallbacksByRoute(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := operator.New(pool, nil, "")
	setRoute(t, o, "user-registered", "sqs://a", "sqs://b", "sqs://c", "sqs://d")
	setRule(t, o, operator.CallbackRule{Destination: "sqs://a", Callback: "sqs://by-a", WithPayload: true})
	setRule(t, o, operator.CallbackRule{Destination: "sqs://b", Callback: outflow.NoCallback})
	setRule(t, o, operator.CallbackRule{Type: "user-registered", Callback: "sqs://by-type"})
	all := func(m outflow.Message) (callbacks []string) {
		id := enqueue(t, pool, m)[0]
		for _, d := range []string{"sqs://a", "sqs://b", "sqs://c", "sqs://d"} {
			callbacks = append(callbacks, asks(t, pool, outflow.RoutedID(id, d)))
		}
		return callbacks
	}
	m := message(outflow.ByRoute)
	require.Equal(t, []string{"sqs://by-a with the payload", "", "sqs://by-type", "sqs://by-type"}, all(m))
	m.Callback = outflow.NoCallback
	require.Equal(t, []string{"", "", "", ""}, all(m))
	m.Callback, m.CallbackPayload = "arn:aws:sqs:eu-west-1:123456789012:own", true
	own := "sqs://own?account=123456789012&region=eu-west-1 with the payload"
	require.Equal(t, []string{own, own, own, own}, all(m))

	id := enqueue(t, pool, m)[0]
	store := outboxdb.New(pool)
	one := ref(outflow.RoutedID(id, "sqs://c"))
	_, err := store.Finish(t.Context(), outbox.Ending{Ref: one, State: outflow.Delivered})
	require.NoError(t, err)
	c, due, err := store.BeginCallback(t.Context(), one, time.Minute)
	require.NoError(t, err)
	require.True(t, due)
	require.Equal(t, id, c.GroupID, "the callback names what the producer knows")
}

// What makes a group exist already, and what is left of it: EnqueueIfAbsent writes nothing, and
// Enqueue names the group.
func TestGroupExists(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := operator.New(pool, nil, "")
	for name, meanwhile := range map[string]func(t *testing.T, id uuid.UUID){
		"nothing changed": func(*testing.T, uuid.UUID) {},
		"one route more":  func(t *testing.T, _ uuid.UUID) { setRoute(t, o, typeOf(t), "sqs://c") },
		"one route less":  func(t *testing.T, _ uuid.UUID) { unsetRoute(t, o, typeOf(t), "sqs://a") },
		"other routes": func(t *testing.T, _ uuid.UUID) {
			unsetRoute(t, o, typeOf(t), "sqs://a", "sqs://b")
			setRoute(t, o, typeOf(t), "sqs://c")
		},
		"other routes, and half of it is purged": func(t *testing.T, id uuid.UUID) {
			execute(t, pool, `DELETE FROM outbox.messages WHERE group_id = $1 AND group_place = 1`, id)
			unsetRoute(t, o, typeOf(t), "sqs://a", "sqs://b")
			setRoute(t, o, typeOf(t), "sqs://c")
		},
		"redirected": func(t *testing.T, id uuid.UUID) {
			_, err := o.Redirect(t.Context(), []uuid.UUID{outflow.RoutedID(id, "sqs://a")}, "sqs://c", ada)
			require.NoError(t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			setRoute(t, o, typeOf(t), "sqs://a", "sqs://b")
			m := routed(t)
			enqueue(t, pool, m)
			meanwhile(t, m.ID)
			members := func() []string {
				return values[string](t, pool,
					`SELECT destination FROM outbox.messages WHERE group_id = $1 ORDER BY group_place`, m.ID)
			}
			before := members()
			inTx(t, pool, func(tx pgx.Tx) {
				plain := message(toOrders)
				_, err := outboxdb.Enqueue(t.Context(), tx, plain, m)
				var duplicate *outflow.DuplicateIDError
				require.ErrorAs(t, err, &duplicate)
				require.Equal(t, []uuid.UUID{m.ID}, duplicate.IDs)
				plain.ID = uuid.Must(uuid.NewV7())
				written, err := outboxdb.EnqueueIfAbsent(t.Context(), tx, m, plain)
				require.NoError(t, err)
				require.Equal(t, []uuid.UUID{plain.ID}, written)
			})
			require.Equal(t, before, members())
		})
	}
	t.Run("a message has its ID", func(t *testing.T) { // its producer went from a destination to routes
		setRoute(t, o, typeOf(t), "sqs://a", "sqs://b")
		m := routed(t)
		plain := message(toOrders)
		plain.ID = m.ID
		enqueue(t, pool, plain)
		inTx(t, pool, func(tx pgx.Tx) {
			_, err := outboxdb.Enqueue(t.Context(), tx, m)
			var duplicate *outflow.DuplicateIDError
			require.ErrorAs(t, err, &duplicate)
			written, err := outboxdb.EnqueueIfAbsent(t.Context(), tx, m)
			require.NoError(t, err)
			require.Empty(t, written)
		})
	})
	t.Run("purged", func(t *testing.T) {
		setRoute(t, o, typeOf(t), "sqs://a", "sqs://b")
		m := routed(t)
		enqueue(t, pool, m)
		execute(t, pool, `DELETE FROM outbox.messages WHERE group_id = $1`, m.ID)
		require.Equal(t, []uuid.UUID{m.ID}, enqueue(t, pool, m), "as with any other ID")
	})
	for name, more := range map[string][]string{
		"twice in a call": nil, "twice in a call, with other routes": {"sqs://c", "sqs://d"},
	} {
		t.Run(name, func(t *testing.T) {
			setRoute(t, o, typeOf(t), "sqs://a")
			first, second := routed(t), routed(t)
			second.ID = first.ID
			if more != nil {
				second.Type += "/other"
				setRoute(t, o, second.Type, more...)
			}
			inTx(t, pool, func(tx pgx.Tx) {
				_, err := outboxdb.Enqueue(t.Context(), tx, first, second)
				var duplicate *outflow.DuplicateIDError
				require.ErrorAs(t, err, &duplicate)
				require.Equal(t, []uuid.UUID{first.ID}, duplicate.IDs)
				require.Empty(t, group(t, tx, first.ID))
				written, err := outboxdb.EnqueueIfAbsent(t.Context(), tx, first, second)
				require.NoError(t, err)
				require.Equal(t, []uuid.UUID{first.ID}, written)
			})
			require.Equal(t, []string{"sqs://a"}, group(t, pool, first.ID), "the first of them is whole")
		})
	}
}

// Two calls for one group, between which its routes were changed: one of them writes it.
func TestOneGroupAtTheSameTime(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := operator.New(pool, nil, "")
	for name, c := range map[string]struct {
		isolation pgx.TxIsoLevel
		commits   bool
		wants     []string
		state     string // of the second call's error
	}{
		"it commits":                     {pgx.ReadCommitted, true, []string{"sqs://a", "sqs://b"}, ""},
		"it rolls back":                  {pgx.ReadCommitted, false, []string{"sqs://c", "sqs://d", "sqs://e"}, ""},
		"it commits, in REPEATABLE READ": {pgx.RepeatableRead, true, []string{"sqs://a", "sqs://b"}, "40001"},
	} {
		t.Run(name, func(t *testing.T) {
			setRoute(t, o, typeOf(t), "sqs://a", "sqs://b")
			m := routed(t)
			first, err := pool.Begin(t.Context())
			require.NoError(t, err)
			defer func() { _ = first.Rollback(context.Background()) }()
			_, err = outboxdb.EnqueueIfAbsent(t.Context(), first, m)
			require.NoError(t, err)
			unsetRoute(t, o, typeOf(t), "sqs://a", "sqs://b")
			setRoute(t, o, typeOf(t), "sqs://c", "sqs://d", "sqs://e")
			second, err := pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: c.isolation})
			require.NoError(t, err)
			defer func() { _ = second.Rollback(context.Background()) }()
			answered := make(chan error, 1)
			go func() {
				_, err := outboxdb.EnqueueIfAbsent(t.Context(), second, m)
				answered <- err
			}()
			waitFor(t, pool, waitsForLock)
			if c.commits {
				require.NoError(t, first.Commit(t.Context()))
			} else {
				require.NoError(t, first.Rollback(t.Context()))
			}
			require.Equal(t, c.state, sqlState(<-answered))
			if c.state == "" {
				require.NoError(t, second.Commit(t.Context()))
			}
			require.Equal(t, c.wants, group(t, pool, m.ID))
		})
	}
}

// A transaction sees the routes as it sees any other table.
func TestRoutesAreThoseOfTheSnapshot(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := operator.New(pool, nil, "")
	for isolation, wants := range map[pgx.TxIsoLevel][]string{
		pgx.ReadCommitted: {"sqs://a", "sqs://b"}, pgx.RepeatableRead: {"sqs://a"}, pgx.Serializable: {"sqs://a"},
	} {
		t.Run(string(isolation), func(t *testing.T) {
			messageType := strings.ReplaceAll(typeOf(t), " ", "")
			setRoute(t, o, messageType, "sqs://a")
			tx, err := pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: isolation})
			require.NoError(t, err)
			defer func() { _ = tx.Rollback(context.Background()) }()
			first, second := routed(t), routed(t)
			first.Type, second.Type = messageType, messageType
			_, err = outboxdb.Enqueue(t.Context(), tx, first)
			require.NoError(t, err)
			setRoute(t, o, messageType, "sqs://b") // no open transaction keeps an operator waiting
			_, err = outboxdb.Enqueue(t.Context(), tx, second)
			require.NoError(t, err)
			require.NoError(t, tx.Commit(t.Context()))
			require.Equal(t, []string{"sqs://a"}, group(t, pool, first.ID))
			require.Equal(t, wants, group(t, pool, second.ID))
		})
	}
}

// While producers enqueue, routes come and go: no call fails, and each call sees the routes of one
// moment for all of its messages.
func TestRoutesChangeWhileProducersEnqueue(t *testing.T) {
	t.Parallel()
	pool := another(t, teststack.New(t), func(c *pgxpool.Config) { c.MaxConns = 8 })
	o := operator.New(pool, nil, "")
	setRoute(t, o, "user-registered", "sqs://always")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	const producers, calls, changes = 4, 50, 40
	var changed atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; ctx.Err() == nil; n++ {
			r := operator.Route{Type: "user-registered", Destination: []string{"sqs://x", "sqs://y"}[n/2%2]}
			if n%2 == 0 {
				assert.NoError(t, o.SetRoute(t.Context(), r, ada))
			} else {
				_, err := o.UnsetRoute(t.Context(), r, false, ada)
				assert.NoError(t, err)
			}
			changed.Add(1)
		}
	}()
	results := make(chan [][]uuid.UUID, producers)
	for range producers {
		go func() {
			var all [][]uuid.UUID
			for n := 0; n < calls || changed.Load() < changes; n++ {
				err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
					ids, err := outboxdb.Enqueue(t.Context(), tx, messages(outflow.ByRoute, 3)...)
					all = append(all, ids)
					return err
				})
				assert.NoError(t, err)
			}
			results <- all
		}()
	}
	seen := map[string]int{}
	for range producers {
		for _, ids := range <-results {
			first := group(t, pool, ids[0])
			seen[strings.Join(first, " ")]++
			for _, id := range ids[1:] {
				require.Equal(t, first, group(t, pool, id), "one call, one moment")
			}
		}
	}
	stop()
	<-done
	t.Logf("%d changes, groups: %v", changed.Load(), seen)
	require.Len(t, seen, 3, "each state of the routes")
	for of := range seen {
		require.Contains(t, []string{"sqs://always", "sqs://always sqs://x", "sqs://always sqs://y"}, of)
	}
}

// Groups are locked in one order, whatever that of the call.
func TestGroupsInOppositeOrder(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	setRoute(t, operator.New(pool, nil, ""), "user-registered", "sqs://a", "sqs://b", "sqs://c")
	for range 20 {
		msgs := messages(outflow.ByRoute, 20)
		for i := range msgs {
			msgs[i].ID = uuid.New()
		}
		backwards := slices.Clone(msgs)
		slices.Reverse(backwards)
		written := make(chan int, 2)
		for _, call := range [][]outflow.Message{msgs, backwards} {
			go func() {
				n := 0
				err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
					ids, err := outboxdb.EnqueueIfAbsent(t.Context(), tx, call...)
					n = len(ids)
					return err
				})
				assert.NoError(t, err)
				written <- n
			}()
		}
		require.Equal(t, 20, <-written+<-written)
	}
	require.Equal(t, 20*20*3, count(t, pool))
}

func TestAThousandByRouteInOneStatement(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	setRoute(t, operator.New(pool, nil, ""), "user-registered", "sqs://a", "sqs://b", "sqs://c")
	watched, statements := traced(t, pool)
	var ids []uuid.UUID
	inTx(t, watched, func(tx pgx.Tx) {
		statements.take()
		var err error
		ids, err = outboxdb.Enqueue(t.Context(), tx, messages(outflow.ByRoute, 1000)...)
		require.NoError(t, err)
		require.Equal(t, []string{outboxdb.StatementEnqueue}, statements.take())
	})
	require.Equal(t, 3000, count(t, pool))
	require.Equal(t, ids, values[uuid.UUID](t, pool,
		`SELECT group_id FROM outbox.messages WHERE destination = 'sqs://b' ORDER BY seq`), "in the call's order")
	require.Equal(t, 1000, value[int](t, pool,
		`SELECT count(*) FROM (SELECT FROM outbox.messages GROUP BY group_id HAVING count(*) = 3) AS g`))
}

// A group's rows are purged each by its own state, and moved with what made them a group.
func TestPurgeOfAGroup(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o, store := operator.New(pool, nil, ""), outboxdb.New(pool)
	setRoute(t, o, "user-registered", "sqs://a", "sqs://b", "sqs://c")
	id := enqueue(t, pool, message(outflow.ByRoute))[0]
	deliver(t, pool, outflow.RoutedID(id, "sqs://a"))
	_, err := store.Finish(t.Context(), outbox.Ending{Ref: ref(outflow.RoutedID(id, "sqs://b")), State: outflow.Dead,
		LastError: "no such queue"})
	require.NoError(t, err)
	require.Equal(t, 1, purge(t, store, outbox.Purge{State: outflow.Delivered, Limit: 10, History: true}).Rows)
	require.Equal(t, []string{"sqs://b", "sqs://c"}, values[string](t, pool,
		`SELECT destination FROM outbox.messages WHERE group_id = $1 ORDER BY group_place`, id))
	require.Equal(t, []string{"sqs://a 1"}, values[string](t, pool,
		`SELECT destination || ' ' || group_place FROM outbox.history WHERE group_id = $1`, id))
}

// A plan that a session made while the table was empty does not read all of it later.
func TestEnqueueByRouteReadsNoTable(t *testing.T) {
	t.Parallel()
	pool := another(t, teststack.New(t), func(c *pgxpool.Config) { c.MaxConns = 1 })
	setRoute(t, operator.New(pool, nil, ""), "user-registered", "sqs://a", "sqs://b")
	buffers := func() int { // the fewest of some: a busy server has a session read the catalog again
		n := 1 << 20
		for range 5 {
			n = min(n, teststack.Explain(t, pool, "auto",
				`SELECT outbox.enqueue('routes', 'user-registered', 'x'::text)`).Buffers())
		}
		return n
	}
	execute(t, pool, `ALTER TABLE outbox.messages SET (autovacuum_enabled = off)`)
	execute(t, pool, `VACUUM ANALYZE outbox.messages`)
	buffers() // a session's first plans are others
	empty := buffers()
	execute(t, pool, `INSERT INTO outbox.messages (id, destination, type, payload)
		SELECT gen_random_uuid(), 'sqs://q', 'a', 'x' FROM generate_series(1, 50000)`)
	full := buffers()
	execute(t, pool, `INSERT INTO outbox.routes SELECT 'sqs://q' || n, 't' || n FROM generate_series(1, 20000) AS n`)
	many := buffers()
	t.Logf("buffers of one message by two routes: %d in an empty table, %d beside 50,000 rows, %d beside 20,000 routes",
		empty, full, many)
	assert.LessOrEqual(t, full, empty+60)
	assert.LessOrEqual(t, many, full+20)
}
