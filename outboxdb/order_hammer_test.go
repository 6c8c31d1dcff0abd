package outboxdb_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
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
	hammerProducers    = 5
	hammerKeys         = 6
	hammerDestinations = 2
	hammerBacklog      = 300 // pending messages: deliveries are slower than enqueues
)

// hammer is everybody who works with a table at the same time.
type hammer struct {
	*testing.T
	pool     *pgxpool.Pool
	stop     context.Context
	twoPhase bool         // the server takes prepared transactions
	writes   atomic.Int64 // messages that producers committed
	refused  atomic.Int64 // transactions that are to be repeated
	prepared atomic.Int64 // those committed in two phases
	backlog  atomic.Int64
	looks    atomic.Int64

	claiming sync.Mutex
	mu       sync.Mutex
	ids      []uuid.UUID
	claimed  map[string][]int64 // first claims of generation 1, by destination and key
	seen     map[uuid.UUID]bool
	enqueued []enqueuedAt
}

// enqueuedAt is a message as its transaction wrote it.
type enqueuedAt struct {
	ID   uuid.UUID `db:"id"`
	Seq  int64     `db:"seq"`
	Key  string    `db:"key"` // with the destination
	Xact int64     `db:"xact"`
}

// TestOrderHammer has producers of every isolation level, dispatchers that crash and are late,
// operators and purges work on a few ordering keys at the same time. All the while no key is stranded.
// In the end everything is delivered, and each key's seq has the order of its commits.
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
		twoPhase: value[int](t, pool, `SELECT current_setting('max_prepared_transactions')::int`) >= hammerProducers}
	var all sync.WaitGroup
	for range hammerProducers {
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
	all.Go(func() { h.until(h.look) })
	all.Wait()
	h.drain()

	requireOrder(t, pool)
	h.requireOrderOfCommits()
	assert.Zero(t, value[int](t, pool, `SELECT count(*) FROM outbox.messages WHERE state = 'pending'`))
	produced := map[int64]bool{} // an operator's copy takes its seq without the key
	for _, m := range h.enqueued {
		produced[m.Seq] = true
	}
	first := 0
	for key, seqs := range h.claimed {
		seqs = slices.DeleteFunc(seqs, func(seq int64) bool { return !produced[seq] })
		first += len(seqs)
		for i := 1; i < len(seqs); i++ {
			assert.Less(t, seqs[i-1], seqs[i], "%s: a later message was claimed first", key)
		}
	}
	t.Logf("%d messages by producers, %d transactions to be repeated, %d committed in two phases; "+
		"%d claimed in order; %d looks", h.writes.Load(), h.refused.Load(), h.prepared.Load(), first, h.looks.Load())
	require.Positive(t, first, "nothing was delivered: this shows nothing")
	require.Positive(t, h.looks.Load())
	if h.twoPhase {
		require.Positive(t, h.prepared.Load())
	} else {
		t.Log("left out: commits in two phases, for which the server has max_prepared_transactions = 0")
	}
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
	if err != nil && !errors.Is(err, outbox.ErrLocked) && !errors.Is(err, outflow.ErrNotFound) &&
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
	if rand.IntN(10) == 0 {
		m.ExpiresIn = m.DueIn + time.Duration(1+rand.IntN(500))*time.Millisecond
	}
	if rand.IntN(10) == 0 {
		m.Callback = "sqs://answers"
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
	if rand.IntN(5) == 0 {
		err = h.enqueueToSavepoint(ctx, tx)
	}
	var ids []uuid.UUID
	if err == nil {
		ids, err = enqueue(ctx, tx, msgs...)
	}
	var written []enqueuedAt
	if err == nil {
		written, err = readEnqueued(ctx, tx, ids)
	}
	if err == nil {
		h.pause(8)
		switch chance := rand.IntN(10); {
		case chance < 2:
			return
		case chance < 4 && h.twoPhase:
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
		h.enqueued = append(h.enqueued, written...)
		h.mu.Unlock()
	}
}

// enqueueToSavepoint takes a call back, whose key may be another one's than that of the call after it.
func (h *hammer) enqueueToSavepoint(ctx context.Context, tx pgx.Tx) error {
	undone, err := tx.Begin(ctx)
	if err == nil {
		_, err = outboxdb.Enqueue(ctx, undone, h.message())
	}
	if err == nil {
		err = undone.Rollback(ctx)
	}
	return err
}

// readEnqueued reads what tx has just written. The snapshot of tx may still show a row that had one of
// the IDs before, and was purged since.
func readEnqueued(ctx context.Context, tx pgx.Tx, ids []uuid.UUID) ([]enqueuedAt, error) {
	rows, err := tx.Query(ctx, `
		SELECT DISTINCT ON (m.id) m.id, m.seq, m.destination || ' ' || m.ordering_key AS key,
		       pg_current_xact_id()::xid::text::bigint AS xact
		  FROM outbox.messages AS m WHERE m.id = ANY ($1) ORDER BY m.id, m.seq DESC`, ids)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByName[enqueuedAt])
}

func (h *hammer) commitInTwoPhases(ctx context.Context, conn *pgxpool.Conn) error {
	name := uuid.NewString()
	if _, err := conn.Exec(ctx, `PREPARE TRANSACTION '`+name+`'`); err != nil {
		return err
	}
	h.pause(20)
	if _, err := conn.Exec(ctx, `COMMIT PREPARED '`+name+`'`); err != nil {
		return err
	}
	h.prepared.Add(1)
	return nil
}

// look is requireOrder amid all the others.
func (h *hammer) look() {
	var stranded int
	h.check("looking for stranded keys",
		h.pool.QueryRow(context.WithoutCancel(h.stop), strandedSQL).Scan(&stranded))
	if stranded > 0 {
		h.Errorf("%d followers without a head, whose release is not deferred", stranded)
	}
	h.looks.Add(1)
	h.pause(40)
}

// requireOrderOfCommits compares seq with the times of the commits, within each key.
func (h *hammer) requireOrderOfCommits() {
	if value[string](h, h.pool, `SELECT current_setting('track_commit_timestamp')`) != "on" {
		h.Log("left out: seq beside the commits' times, for which the server has track_commit_timestamp = off")
		return
	}
	xacts := make([]int64, 0, len(h.enqueued))
	for _, m := range h.enqueued {
		xacts = append(xacts, m.Xact)
	}
	committed := values[time.Time](h, h.pool, `SELECT pg_xact_commit_timestamp(x.id::text::xid)
		FROM unnest($1::bigint[]) WITH ORDINALITY AS x (id, place) ORDER BY x.place`, xacts)
	type commit struct {
		enqueuedAt
		at time.Time
	}
	byKey := map[string][]commit{}
	for i, m := range h.enqueued {
		byKey[m.Key] = append(byKey[m.Key], commit{m, committed[i]})
	}
	for key, commits := range byKey {
		slices.SortFunc(commits, func(a, b commit) int { return cmp.Compare(a.Seq, b.Seq) })
		for i, c := range commits[1:] {
			assert.False(h, c.at.Before(commits[i].at), "%s: seq %d was committed at %s, seq %d before it at %s",
				key, c.Seq, c.at, commits[i].Seq, commits[i].at)
		}
	}
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
	h.claiming.Lock() // else an operator may move a message on before its claim is noted here
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
	h.claiming.Unlock()
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
		case m.Expired:
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
	switch rand.IntN(11) {
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
	case 8:
		_, err = o.UndoDismiss(ctx, ids, ada)
	case 9:
		_, err = o.RetryCallbacks(ctx, ids, ada)
	case 10:
		_, err = o.Send(ctx, h.message(), ada)
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
	_, err := store.ReleaseDeferred(context.WithoutCancel(h.stop))
	h.check("releasing", err)
	h.pause(20)
}

func (h *hammer) purge(store *outboxdb.Store) {
	ctx := context.WithoutCancel(h.stop)
	for _, state := range []outflow.State{outflow.Delivered, outflow.Dead, outflow.Expired, outflow.Cancelled} {
		_, err := store.PurgeMessages(ctx, outbox.Purge{State: state, Limit: 20, OlderThan: 300 * time.Millisecond,
			History: rand.IntN(2) == 0})
		h.check("purging messages", err)
	}
	_, err := store.PurgeAs(ctx, outbox.Purge{State: outflow.Dead, Dismissed: true, Limit: 20}, "ada", "")
	h.check("purging dismissed messages", err)
	_, err = store.PurgeKeys(ctx, 0, 100)
	h.check("purging keys", err)
	h.answerCallbacks(ctx, store)
	var pending int64
	h.check("counting", h.pool.QueryRow(ctx,
		`SELECT count(*) FROM outbox.messages WHERE state = 'pending'`).Scan(&pending))
	h.backlog.Store(pending)
	h.pause(40)
}

// answerCallbacks has the due callbacks sent, or given up: a row is not purged before.
func (h *hammer) answerCallbacks(ctx context.Context, store *outboxdb.Store) {
	due, err := store.TakeCallbacks(ctx, 50, time.Minute)
	h.check("taking callbacks", err)
	for _, c := range due {
		state := []outbox.CallbackState{outbox.CallbackSent, outbox.CallbackFailed}[rand.IntN(2)]
		_, err := store.NoteCallback(ctx, outbox.CallbackNote{Ref: c.Ref, State: state})
		h.check("noting a callback", err)
	}
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

// idleRounds is how many rounds of drain in a row may deliver nothing.
const idleRounds = 500

// drain delivers everything that is left: nothing may wait for ever.
func (h *hammer) drain() {
	store, o := outboxdb.New(h.pool), operator.New(h.pool, nil, "")
	pending := func() int {
		return value[int](h, h.pool, `SELECT count(*) FROM outbox.messages WHERE state = 'pending'`)
	}
	for idle := 0; pending() > 0; idle++ {
		if idle > idleRounds {
			require.Empty(h, values[string](h, h.pool, `SELECT format('%s %s: head %s, follower %s, claims %s, available in %s',
				id, ordering_key, head, follower, claims, available_at - now())
				FROM outbox.messages WHERE state = 'pending' AND seq IN (
				    SELECT min(seq) FROM outbox.messages WHERE state = 'pending' GROUP BY destination, ordering_key)`),
				"messages wait for ever")
		}
		h.release(store)
		_, err := o.Skip(h.Context(), h.deadHeads(), ada)
		h.check("skipping", err)
		_, err = h.pool.Exec(h.Context(), `UPDATE outbox.messages SET available_at = now(),
			due_at = least(due_at, now()), cancel_requested = false, claims = 0, expires_at = NULL
			WHERE state = 'pending' AND NOT follower AND (available_at > now() OR claims >= 5)`)
		h.check("having them due", err)
		store.WalkNext()
		claimed, err := store.Claim(h.Context(), request())
		h.check("claiming", err)
		for _, m := range claimed.Messages {
			_, err := store.Finish(h.Context(), outbox.Ending{Ref: m.Ref(), State: outflow.Delivered})
			h.check("finishing", err)
			idle = 0
		}
	}
}
