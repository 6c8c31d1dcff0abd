package outboxdb_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/operator"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

// hammerVariable is how long TestOrderHammer works, such as 5m.
const hammerVariable = "OUTFLOW_HAMMER"

const (
	hammerKeys         = 6
	hammerDestinations = 2
	hammerBacklog      = 300 // pending messages: deliveries are slower than enqueues
)

// hammer is everybody who works with a table at the same time.
type hammer struct {
	*testing.T
	pool     *pgxpool.Pool
	stop     context.Context
	twoPhase bool
	writes   atomic.Int64 // messages that producers committed
	refused  atomic.Int64 // transactions that are to be repeated
	prepared atomic.Int64
	backlog  atomic.Int64

	mu      sync.Mutex
	ids     []uuid.UUID
	claimed map[string][]int64 // first claims of generation 1, by destination and key
	seen    map[uuid.UUID]bool
}

// TestOrderHammer has producers of every isolation level, dispatchers that crash and are late,
// operators and purges work on a few ordering keys at the same time.
func TestOrderHammer(t *testing.T) {
	t.Parallel()
	length := 4 * time.Second
	if asked := os.Getenv(hammerVariable); asked != "" {
		var err error
		length, err = time.ParseDuration(asked)
		require.NoError(t, err)
	}
	pool := another(t, teststack.New(t), func(c *pgxpool.Config) { c.MaxConns = 24 })
	stop, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	h := &hammer{T: t, pool: pool, stop: stop, claimed: map[string][]int64{}, seen: map[uuid.UUID]bool{},
		twoPhase: value[int](t, pool, `SELECT current_setting('max_prepared_transactions')::int`) >= 8}
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() { h.until(h.produce) })
	}
	for range 3 {
		store := outboxdb.New(pool)
		all.Go(func() { h.until(func() { h.dispatch(store) }) })
	}
	for range 2 {
		o, store := operator.New(pool, nil, ""), outboxdb.New(pool)
		all.Go(func() { h.until(func() { h.operate(o, store) }) })
	}
	maintenance := outboxdb.New(pool)
	all.Go(func() { h.until(func() { h.release(maintenance) }) })
	all.Go(func() { h.until(func() { h.purge(maintenance) }) })
	all.Go(func() { h.until(h.loseLeases) })
	all.Wait()
	h.drain()

	requireOrder(t, pool)
	assert.Zero(t, value[int](t, pool, `SELECT count(*) FROM outbox.messages WHERE state = 'pending'`))
	first := 0
	for key, seqs := range h.claimed {
		first += len(seqs)
		for i := 1; i < len(seqs); i++ {
			assert.Less(t, seqs[i-1], seqs[i], "%s: a later message was claimed first", key)
		}
	}
	t.Logf("%d messages by producers, %d transactions to be repeated, %d prepared; %d claimed in order",
		h.writes.Load(), h.refused.Load(), h.prepared.Load(), first)
	require.Positive(t, first, "nothing was delivered: this shows nothing")
}

// until does something again and again.
func (h *hammer) until(do func()) {
	for h.stop.Err() == nil && !h.Failed() {
		do()
	}
}

// check fails the test where an error says more than that a row was locked for a while, or that a
// busy machine was too slow. Among these are deadlocks (40P01) and second heads (23505).
func (h *hammer) check(doing string, err error) {
	if err != nil && !errors.Is(err, outboxdb.ErrLocked) && !errors.Is(err, outflow.ErrNotFound) &&
		!errors.Is(err, context.DeadlineExceeded) {
		detail := ""
		if pg := new(pgconn.PgError); errors.As(err, &pg) {
			detail = pg.Detail
		}
		h.Errorf("%s: %v %s", doing, err, detail)
	}
}

func (h *hammer) message() outflow.Message {
	m := message(fmt.Sprintf("sqs://q%d", rand.IntN(hammerDestinations)))
	m.OrderingKey = fmt.Sprintf("k%d", rand.IntN(hammerKeys))
	if rand.IntN(10) == 0 {
		m.DueIn = time.Duration(rand.IntN(300)) * time.Millisecond
	}
	return m
}

// produce makes one transaction with one call, which commits late, or not at all.
func (h *hammer) produce() {
	ctx := context.WithoutCancel(h.stop)
	if h.backlog.Load() > hammerBacklog {
		h.pause(20)
		return
	}
	level := []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.RepeatableRead, pgx.Serializable}[rand.IntN(3)]
	conn, err := h.pool.Acquire(ctx)
	if err != nil {
		h.check("connecting", err)
		return
	}
	defer conn.Release()
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: level})
	if err != nil {
		h.check("beginning", err)
		return
	}
	defer func() { _ = tx.Rollback(ctx) }()
	var some int
	h.check("taking a snapshot", tx.QueryRow(ctx, `SELECT count(*) FROM outbox.destinations`).Scan(&some))
	h.pause(3)
	var msgs []outflow.Message
	for range 1 + rand.IntN(4) {
		msgs = append(msgs, h.message())
	}
	enqueue := outboxdb.Enqueue
	if rand.IntN(4) == 0 {
		enqueue = outboxdb.EnqueueIfAbsent
		msgs[0].ID = h.known()
	}
	ids, err := enqueue(ctx, tx, msgs...)
	if err == nil {
		h.pause(8)
		switch chance := rand.IntN(10); {
		case chance < 2:
			return
		case chance == 2 && h.twoPhase:
			err = h.commitInTwoPhases(ctx, conn)
		default:
			err = tx.Commit(ctx)
		}
	}
	var pg *pgconn.PgError
	if level != pgx.ReadCommitted && errors.As(err, &pg) && pg.Code == "40001" {
		h.refused.Add(1)
		return
	}
	h.check("producing in "+string(level), err)
	if err == nil {
		h.writes.Add(int64(len(ids)))
		h.mu.Lock()
		h.ids = append(h.ids, ids...)
		h.mu.Unlock()
	}
}

func (h *hammer) commitInTwoPhases(ctx context.Context, conn *pgxpool.Conn) error {
	name := uuid.NewString()
	if _, err := conn.Exec(ctx, `PREPARE TRANSACTION '`+name+`'`); err != nil {
		return err
	}
	h.prepared.Add(1)
	h.pause(20)
	_, err := conn.Exec(ctx, `COMMIT PREPARED '`+name+`'`)
	return err
}

func (h *hammer) pause(most int) { time.Sleep(time.Duration(rand.IntN(most*1000)) * time.Microsecond) }

// known is an ID that exists, or existed; a new one at first.
func (h *hammer) known() uuid.UUID {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.ids) == 0 {
		return uuid.New()
	}
	return h.ids[rand.IntN(len(h.ids))]
}

// dispatch claims, and ends what it has claimed in one way or another.
func (h *hammer) dispatch(store *outboxdb.Store) {
	ctx := context.WithoutCancel(h.stop)
	store.WalkNext()
	req := request()
	req.MaxMessages = 1 + rand.IntN(6)
	claimed, err := store.Claim(ctx, req)
	h.check("claiming", errors.Join(err, claimed.Problem))
	var endings []outbox.Ending
	h.mu.Lock()
	for _, m := range claimed.Messages {
		if m.Generation == 1 && !h.seen[m.ID] {
			h.seen[m.ID] = true
			key := m.Destination + " " + m.OrderingKey
			h.claimed[key] = append(h.claimed[key], m.Seq)
		}
	}
	h.mu.Unlock()
	h.pause(3)
	for _, m := range claimed.Messages {
		end := outbox.Ending{Ref: m.Ref(), State: outflow.Delivered, Attempts: 1}
		switch chance := rand.IntN(20); {
		case chance < 2: // its process crashes
			continue
		case chance == 2:
			_, err := store.PutBack(ctx, outbox.PutBack{Ref: m.Ref(), LastError: "reset"})
			h.check("putting back", err)
			continue
		case chance == 3:
			_, err := store.Renew(ctx, outbox.Renewal{Ref: m.Ref(), Lease: time.Millisecond, LastError: "reset"})
			h.check("renewing", err)
			continue
		case chance < 7:
			end.State = outflow.Dead
		case chance == 7:
			end.State = outflow.Expired
		}
		endings = append(endings, end)
	}
	_, errs := store.FinishBatch(ctx, endings...)
	for _, err := range errs {
		h.check("finishing", err)
	}
	for _, e := range endings { // a broker acknowledges what was given up
		if e.State != outflow.Delivered && rand.IntN(4) == 0 {
			e.State = outflow.Delivered
			_, err := store.Finish(ctx, e)
			h.check("finishing late", err)
		}
	}
	if len(claimed.Messages) == 0 {
		h.pause(3)
	}
}

// operate does something to a few messages.
func (h *hammer) operate(o *operator.Operator, store *outboxdb.Store) {
	ctx := context.WithoutCancel(h.stop)
	ids := []uuid.UUID{h.known(), h.known(), h.known()}
	var err error
	switch rand.IntN(8) {
	case 0, 1:
		_, err = o.Retry(ctx, ids, ada)
	case 2:
		_, err = o.Redirect(ctx, ids, fmt.Sprintf("sqs://q%d", rand.IntN(hammerDestinations)), ada)
	case 3:
		_, err = o.Reschedule(ctx, ids, time.Time{}, time.Duration(rand.IntN(200))*time.Millisecond, ada)
	case 4:
		_, err = o.Resend(ctx, ids[:1], ada)
	case 5:
		_, err = o.Skip(ctx, h.deadHeads(), ada)
	case 6:
		_, err = store.RequestCancel(ctx, ids, "ada", "")
		h.check("cancelling", err)
		_, err = store.EndCancelled(ctx, ref(ids[0]), "ada", "")
	case 7:
		_, err = o.Dismiss(ctx, ids, ada)
	}
	h.check("operating", err)
	h.pause(5)
}

func (h *hammer) deadHeads() (ids []uuid.UUID) {
	rows, err := h.pool.Query(context.WithoutCancel(h.stop),
		`SELECT id FROM outbox.messages WHERE head AND state = 'dead'`)
	if err == nil {
		ids, err = pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	}
	h.check("looking for dead heads", err)
	return ids
}

func (h *hammer) release(store *outboxdb.Store) {
	_, err := store.ReleaseOwed(context.WithoutCancel(h.stop))
	h.check("releasing", err)
	h.pause(20)
}

func (h *hammer) purge(store *outboxdb.Store) {
	ctx := context.WithoutCancel(h.stop)
	for _, state := range []outflow.State{outflow.Delivered, outflow.Dead, outflow.Expired, outflow.Cancelled} {
		_, err := store.PurgeMessages(ctx, outbox.Purge{State: state, Limit: 20, OlderThan: 300 * time.Millisecond})
		h.check("purging messages", err)
	}
	_, err := store.PurgeKeys(ctx, 0, 100)
	h.check("purging keys", err)
	var pending int64
	h.check("counting", h.pool.QueryRow(ctx,
		`SELECT count(*) FROM outbox.messages WHERE state = 'pending'`).Scan(&pending))
	h.backlog.Store(pending)
	h.pause(40)
}

// loseLeases has leases run out.
func (h *hammer) loseLeases() {
	_, err := h.pool.Exec(context.WithoutCancel(h.stop), `
		UPDATE outbox.messages AS m SET available_at = now()
		 WHERE m.id IN (SELECT l.id FROM outbox.messages AS l
		                 WHERE l.state = 'pending' AND l.parked AND NOT l.follower AND l.started AND random() < 0.3
		                   FOR UPDATE SKIP LOCKED)`)
	h.check("losing leases", err)
	h.pause(60)
}

// drain delivers everything that is left: nothing may wait for ever.
func (h *hammer) drain() {
	store, o := outboxdb.New(h.pool), operator.New(h.pool, nil, "")
	require.Eventually(h, func() bool {
		h.release(store)
		_, err := o.Skip(h.Context(), h.deadHeads(), ada)
		h.check("skipping", err)
		_, err = h.pool.Exec(h.Context(), `UPDATE outbox.messages SET available_at = now(),
			due_at = least(due_at, now()), cancel_requested = false, claims = 0, expires_at = NULL
			WHERE state = 'pending' AND NOT follower AND available_at > now()`)
		h.check("having them due", err)
		store.WalkNext()
		claimed, err := store.Claim(h.Context(), request())
		h.check("claiming", err)
		for _, m := range claimed.Messages {
			_, err := store.Finish(h.Context(), outbox.Ending{Ref: m.Ref(), State: outflow.Delivered})
			h.check("finishing", err)
		}
		return value[int](h, h.pool, `SELECT count(*) FROM outbox.messages WHERE state = 'pending'`) == 0
	}, time.Minute, 10*time.Millisecond, "messages wait for ever")
}
