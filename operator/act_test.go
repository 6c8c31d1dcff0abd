package operator

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/workflows"
)

func TestRetry(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o, store := newActs(pool), outboxdb.New(pool)
	for _, state := range []outflow.State{outflow.Dead, outflow.Expired, outflow.Cancelled} {
		id := finished(t, pool, message("sqs://"+string(state)), state)
		execute(t, pool, `UPDATE outbox.messages SET cancel_requested = true, expires_at = due_at + interval '1 microsecond' WHERE id = $1`, id)
		changes, err := o.Retry(t.Context(), []uuid.UUID{id}, ada)
		require.NoError(t, err)
		c := changes[0]
		assert.True(t, c.Found && c.Done)
		assert.Equal(t, state, c.State, "as it was found")
		assert.Equal(t, outflow.Pending, c.NewState)
		assert.Equal(t, 2, c.NewGeneration)

		s := stands(t, pool, id)
		assert.Equal(t, "pending", s.State)
		assert.Equal(t, 2, s.Generation)
		assert.Zero(t, s.Claims)
		assert.Equal(t, 1, s.Attempts, "kept")
		assert.Equal(t, "no such queue", *s.LastError, "kept")
		assert.LessOrEqual(t, s.LeasedFor, 1.0, "its old run has a second to close")
		execute(t, pool, `UPDATE outbox.messages SET available_at = now() WHERE id = $1`, id)
		require.Len(t, audited(t, pool, id), 1)
		assert.Contains(t, audited(t, pool, id)[0],
			`retry 2 ada@host: the queue is back {"was": "`+string(state)+`", "expiry_dropped": "`)

		// What the old run sends again changes nothing.
		for _, late := range []outflow.State{outflow.Dead, outflow.Delivered} {
			outcome, err := store.Finish(t.Context(),
				outbox.Ending{Ref: ref(id), State: late, LastError: "late", BrokerMessageID: "late"})
			require.NoError(t, err)
			assert.Equal(t, outflow.Pending, outcome.State)
			assert.Equal(t, 2, outcome.Generation)
		}
		claimed := claim(t, pool, request()).Messages
		require.Len(t, claimed, 1)
		assert.Equal(t, 2, claimed[0].Generation)
		assert.False(t, claimed[0].CancelRequested || claimed[0].Expired)
	}
}

func TestRetryLeavesTheOthers(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := newActs(pool)
	delivered := finished(t, pool, message("sqs://orders"), outflow.Delivered)
	dead := finished(t, pool, message("sqs://orders"), outflow.Dead)
	pending := enqueue(t, pool, message("sqs://orders"))[0]
	nobody := uuid.New()
	changes, err := o.Retry(t.Context(), []uuid.UUID{pending, nobody, dead, delivered}, ada)
	require.NoError(t, err)
	for i, want := range []struct {
		id          uuid.UUID
		found, done bool
		state       outflow.State
	}{{pending, true, false, outflow.Pending}, {nobody, false, false, ""}, {dead, true, true, outflow.Dead}, {delivered,
		true, false, outflow.Delivered}} {
		c := changes[i]
		assert.Equal(t, want.id, c.ID)
		assert.Equal(t, want.found, c.Found)
		assert.Equal(t, want.done, c.Done)
		assert.Equal(t, want.state, c.State)
	}
	assert.Equal(t, 1, stands(t, pool, delivered).Generation)
	assert.Equal(t, 1, value[int](t, pool, `SELECT count(*) FROM outbox.audit`))

	again, err := o.Retry(t.Context(), []uuid.UUID{dead}, ada)
	require.NoError(t, err)
	assert.False(t, again[0].Done, "it is pending by now")
}

// Two retries of one message: the second finds it pending under the lock.
func TestRetryOnce(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	id := finished(t, pool, message("sqs://orders"), outflow.Dead)
	locked, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = locked.Rollback(t.Context()) }()
	_, err = locked.Exec(t.Context(), `UPDATE outbox.messages SET state = 'pending', finished_at = NULL, generation = 2 WHERE id = $1`, id)
	require.NoError(t, err)
	type answer struct {
		changes []change
		err     error
	}
	answers := make(chan answer, 1)
	go func() {
		changes, err := newActs(pool).Retry(t.Context(), []uuid.UUID{id}, ada)
		answers <- answer{changes, err}
	}()
	waitFor(t, pool, waitsForLock)
	require.NoError(t, locked.Commit(t.Context()))
	a := <-answers
	require.NoError(t, a.err)
	assert.False(t, a.changes[0].Done)
	assert.Equal(t, outflow.Pending, a.changes[0].State)
	assert.Equal(t, 2, stands(t, pool, id).Generation)
	assert.Empty(t, audited(t, pool, id))
}

func TestRedirect(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o, store := newActs(pool), outboxdb.New(pool)
	fresh, claimed := enqueue(t, pool, message("sqs://new"))[0], enqueue(t, pool, message("sqs://old"))[0]
	execute(t, pool, `UPDATE outbox.messages SET available_at = available_at + interval '1 hour', due_at = due_at + interval '1 hour' WHERE id = $1`, fresh)
	require.Equal(t, []uuid.UUID{claimed}, idsOf(claim(t, pool, request())))
	_, err := store.Renew(t.Context(), outbox.Renewal{Ref: ref(claimed), Lease: time.Minute, LastError: "timeout"})
	require.NoError(t, err)

	changes, err := o.Redirect(t.Context(), []uuid.UUID{claimed, fresh}, "sqs://new", ada)
	require.NoError(t, err)
	assert.True(t, changes[0].Done)
	assert.True(t, changes[0].Retrying, "as it was found: its run is to be signalled")
	assert.Equal(t, "sqs://new", changes[0].NewDestination)
	assert.False(t, changes[1].Done, "it goes there already")
	assert.Equal(t, []string{`redirect 2 ada@host: the queue is back {"from": "sqs://old"}`}, audited(t, pool, claimed))
	s := stands(t, pool, claimed)
	assert.False(t, s.Retrying)
	assert.InDelta(t, 5, s.LeasedFor, 5, "the old run has time to make way")

	// The old broker acknowledges.
	outcome, err := store.Finish(t.Context(),
		outbox.Ending{Ref: ref(claimed), State: outflow.Delivered, BrokerMessageID: "old"})
	require.NoError(t, err)
	assert.Equal(t, outflow.Pending, outcome.State)
	require.NoError(t, makeWay(t.Context(), store, ref(claimed)))
	assert.LessOrEqual(t, stands(t, pool, claimed).LeasedFor, 1.0)

	changes, err = o.Redirect(t.Context(), []uuid.UUID{fresh}, "sqs://other", ada)
	require.NoError(t, err)
	assert.True(t, changes[0].Done)
	assert.Greater(t, stands(t, pool, fresh).LeasedFor, 3000.0, "it stays delayed")

	_, err = o.Redirect(t.Context(), []uuid.UUID{fresh}, "nonsense", ada)
	require.ErrorContains(t, err, "messages_destination")
	assert.Len(t, audited(t, pool, fresh), 1, "no change, no audit")

	dead := finished(t, pool, message("sqs://gone"), outflow.Dead)
	changes, err = o.RetryTo(t.Context(), []uuid.UUID{dead}, "sqs://new", ada)
	require.NoError(t, err)
	assert.True(t, changes[0].Done)
	assert.Equal(t, []string{`redirect 2 ada@host: the queue is back {"was": "dead", "from": "sqs://gone"}`},
		audited(t, pool, dead))
}

func TestReschedule(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o, store := newActs(pool), outboxdb.New(pool)
	id := enqueue(t, pool, message("sqs://orders"))[0]
	claim(t, pool, request())

	changes, err := o.Reschedule(t.Context(), []uuid.UUID{id}, time.Time{}, time.Hour, ada)
	require.NoError(t, err)
	require.True(t, changes[0].Done)
	assert.InDelta(t, 3600, stands(t, pool, id).LeasedFor, 5)
	require.NoError(t, makeWay(t.Context(), store, ref(id)))
	assert.InDelta(t, 3600, stands(t, pool, id).LeasedFor, 5, "the run that makes way does not make it due")
	assert.Contains(t, audited(t, pool, id)[0], `reschedule 2 ada@host: the queue is back {"due_at": "`)

	at := time.Now().Add(2 * time.Hour).UTC().Truncate(time.Microsecond)
	_, err = o.Reschedule(t.Context(), []uuid.UUID{id}, at, 0, ada)
	require.NoError(t, err)
	assert.Equal(t, at, value[time.Time](t, pool, `SELECT due_at FROM outbox.messages WHERE id = $1`, id).UTC())

	execute(t, pool, `UPDATE outbox.messages SET expires_at = due_at + interval '1 hour' WHERE id = $1`, id)
	changes, err = o.Reschedule(t.Context(), []uuid.UUID{id}, at.Add(time.Hour), 0, ada)
	require.NoError(t, err)
	assert.False(t, changes[0].Done, "it would be due after its expiry")
	changes, err = o.Reschedule(t.Context(), []uuid.UUID{id}, at.Add(-24*time.Hour), 0, ada)
	require.NoError(t, err)
	assert.True(t, changes[0].Done)
	assert.Equal(t, 4, changes[0].NewGeneration)
	assert.True(t, value[bool](t, pool, `SELECT due_at BETWEEN now() - interval '1 minute' AND now() FROM outbox.messages WHERE id = $1`, id), "a past time means now")

	dead := finished(t, pool, message("sqs://gone"), outflow.Dead)
	changes, err = o.Reschedule(t.Context(), []uuid.UUID{dead}, at, 0, ada)
	require.NoError(t, err)
	assert.False(t, changes[0].Done)
}

func TestOperatorRelease(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := newActs(pool)
	id := enqueue(t, pool, message("sqs://orders"))[0]
	m := claim(t, pool, request()).Messages[0]
	c, err := o.Release(t.Context(), ref(id), m.LeasedUntil.Add(-time.Second), ada)
	require.NoError(t, err)
	assert.False(t, c.Done, "another claim has it by now")
	c, err = o.Release(t.Context(), ref(id), m.LeasedUntil, ada)
	require.NoError(t, err)
	assert.True(t, c.Done)
	assert.LessOrEqual(t, stands(t, pool, id).LeasedFor, 0.0)
	c, err = o.Release(t.Context(), ref(id), c.NewAvailableAt, ada)
	require.NoError(t, err)
	assert.False(t, c.Done, "nothing holds it")
}

func TestNoteSignal(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := newActs(pool)
	id := enqueue(t, pool, message("sqs://orders"))[0]
	signalled, err := o.Message(t.Context(), id)
	require.NoError(t, err)
	// Its run was quick, and so was a purge.
	execute(t, pool, `DELETE FROM outbox.messages`)
	require.NoError(t, o.noteSignal(t.Context(), signalled, ada))
	assert.Equal(t, []string{`try-now 1 ada@host: the queue is back {}`}, audited(t, pool, id))
	audit, err := o.audit(t.Context(), id)
	require.NoError(t, err)
	require.Len(t, audit, 1)
	assert.Equal(t, "sqs://orders", *audit[0].Destination)
	require.ErrorContains(t, o.noteSignal(t.Context(), signalled, Actor{}),
		"noting that the run of message "+id.String()+" was signalled: ERROR: ", "who?")
}

func TestResend(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := newActs(pool)
	original := message("sqs://orders.fifo")
	original.Headers, original.OrderingKey, original.ContentType = map[string]string{"tenant": "a"}, "customer-7", "text/plain"
	original.ExpiresIn = time.Hour
	id := finished(t, pool, original, outflow.Delivered)
	c, newID, err := o.Resend(t.Context(), id, ada)
	require.NoError(t, err)
	require.True(t, c.Done)
	require.NotEqual(t, id, newID)
	for _, column := range []string{"destination", "type", "payload", "content_type", "headers", "ordering_key"} {
		assert.True(t, value[bool](t, pool,
			`SELECT a.`+column+` = b.`+column+` FROM outbox.messages AS a, outbox.messages AS b WHERE a.id = $1 AND b.id = $2`, id, newID), column)
	}
	s := stands(t, pool, newID)
	assert.Equal(t, "pending", s.State)
	assert.Zero(t, s.Attempts)
	assert.LessOrEqual(t, s.LeasedFor, 0.0)
	assert.True(t, value[bool](t, pool, `SELECT expires_at IS NULL FROM outbox.messages WHERE id = $1`, newID))
	assert.Equal(t, "delivered", stands(t, pool, id).State)
	assert.Equal(t, []string{`resend 1 ada@host: the queue is back {"new_id": "` + newID.String() + `"}`},
		audited(t, pool, id))
	assert.Equal(t, []string{`send 1 ada@host: the queue is back {"resend_of": "` + id.String() + `"}`},
		audited(t, pool, newID))

	dead := finished(t, pool, message("sqs://gone"), outflow.Dead)
	n := count(t, pool)
	for _, other := range []uuid.UUID{dead, uuid.New()} {
		c, _, err = o.Resend(t.Context(), other, ada)
		require.NoError(t, err)
		assert.Equal(t, other, c.ID)
		assert.Equal(t, other == dead, c.Found)
		assert.False(t, c.Done)
	}
	assert.Equal(t, n, count(t, pool))
}

func TestOperatorSendAndShow(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := newActs(pool)
	id, err := o.Send(t.Context(), message("sqs://orders"), ada)
	require.NoError(t, err)
	assert.Equal(t, []string{`send 1 ada@host: the queue is back {}`}, audited(t, pool, id))
	s, err := o.Message(t.Context(), id)
	require.NoError(t, err)
	assert.Equal(t, "due", s.Phase)
	assert.True(t, s.Untouched && s.Available)
	assert.Equal(t, len(`{"name":"Ada"}`), s.PayloadBytes)
	payload, err := o.payload(t.Context(), id)
	require.NoError(t, err)
	assert.Equal(t, `{"name":"Ada"}`, string(payload))
	audit, err := o.audit(t.Context(), id)
	require.NoError(t, err)
	require.Len(t, audit, 1)
	assert.Equal(t, "send", audit[0].Act)

	claim(t, pool, request())
	s, err = o.Message(t.Context(), id)
	require.NoError(t, err)
	assert.Equal(t, "leased", s.Phase)
	assert.False(t, s.Untouched || s.Available)

	var invalid *outflow.InvalidMessageError
	_, err = o.Send(t.Context(), message("nonsense"), ada)
	require.ErrorAs(t, err, &invalid)
	_, err = o.Message(t.Context(), uuid.New())
	require.ErrorIs(t, err, outflow.ErrNotFound)
	_, err = o.payload(t.Context(), uuid.New())
	require.ErrorIs(t, err, outflow.ErrNotFound)
	audit, err = o.audit(t.Context(), uuid.New())
	require.NoError(t, err)
	assert.Empty(t, audit)
}

// An operator's role does everything with what "outflow grants" gives it.
func TestOperatorActsWithItsRights(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	role := teststack.NewRole(t, pool)
	o := newActs(teststack.WithRole(t, pool, role))
	execute(t, pool, `GRANT USAGE ON SCHEMA outbox TO `+role)
	h, err := o.health(t.Context())
	require.NoError(t, err)
	assert.False(t, h.Produces || h.Dispatches || h.Operates)
	require.NoError(t, Grants{Operators: []string{role}}.Apply(t.Context(), pool))
	h, err = o.health(t.Context())
	require.NoError(t, err)
	assert.True(t, h.Produces && h.Operates)
	assert.False(t, h.Dispatches)
	assert.Equal(t, role, h.Role)
	assert.WithinDuration(t, time.Now(), h.Clock, time.Minute)

	dead, delivered := finished(t, pool, message("sqs://orders"), outflow.Dead), finished(t, pool,
		message("sqs://orders"), outflow.Delivered)
	id, err := o.Send(t.Context(), message("sqs://orders"), ada)
	require.NoError(t, err)
	_, err = o.Retry(t.Context(), []uuid.UUID{dead}, ada)
	require.NoError(t, err)
	_, _, err = o.Resend(t.Context(), delivered, ada)
	require.NoError(t, err)
	_, err = o.Redirect(t.Context(), []uuid.UUID{id}, "sqs://other", ada)
	require.NoError(t, err)
	_, err = o.Reschedule(t.Context(), []uuid.UUID{id}, time.Time{}, time.Minute, ada)
	require.NoError(t, err)
	signalled, err := o.Message(t.Context(), id)
	require.NoError(t, err)
	require.NoError(t, o.noteSignal(t.Context(), signalled, ada))
	_, err = o.store.RequestCancel(t.Context(), []uuid.UUID{id}, ada.Who, ada.Why)
	require.NoError(t, err)
	for _, history := range []bool{false, true} {
		finished(t, pool, message("sqs://orders"), outflow.Delivered)
		purged, err := o.Purge(t.Context(), outbox.Purge{State: outflow.Delivered, Limit: 10, History: history}, ada)
		require.NoError(t, err)
		assert.Positive(t, purged.Rows)
	}
	_, _, err = o.Status(t.Context(), 10)
	require.NoError(t, err)
	_, _, err = o.List(t.Context(), ListFilter{Limit: 10})
	require.NoError(t, err)
	given := finished(t, pool, message("sqs://orders"), outflow.Dead)
	dismissed, err := o.Dismiss(t.Context(), []uuid.UUID{given}, ada)
	require.NoError(t, err)
	assert.True(t, dismissed[0].Done)
	_, err = o.KnownDestinations(t.Context(), "sqs://orders")
	require.NoError(t, err)
	_, err = o.KnownTypes(t.Context())
	require.NoError(t, err)
	_, err = o.migrations(t.Context())
	require.NoError(t, err)
	_, err = o.pendingTargets(t.Context(), 10)
	require.NoError(t, err)
	_, err = o.claimed(t.Context(), 10)
	require.NoError(t, err)
	_, err = o.databaseID(t.Context())
	require.NoError(t, err)
	_, err = o.SetStream(t.Context(), "sqs://orders", 5, ada)
	require.NoError(t, err)
	_, err = o.UnsetStream(t.Context(), "sqs://orders", ada)
	require.NoError(t, err)
	_, err = o.Streams(t.Context())
	require.NoError(t, err)
	_, err = o.oldPages(t.Context())
	require.NoError(t, err)
	_, err = o.Backlogs(t.Context(), []PhaseCount{dueOf("sqs://orders", 1_000_000)}, nil, nil)
	require.NoError(t, err)
	taken := New(o.pool.Unwrap(), &playedRun{run: Run{WorkflowID: workflows.StreamID("outbox", "sqs://orders")}}, "")
	require.NoError(t, taken.StopStream(t.Context(), "sqs://orders", ada))
}

// An old snapshot keeps vacuum from its work: the doctor names who holds it.
func TestHealthSeesSnapshots(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	holder := another(t, pool, func(c *pgxpool.Config) { c.ConnConfig.RuntimeParams["application_name"] = "a report" })
	tx, err := holder.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(t.Context()) }()
	_, err = tx.Exec(t.Context(), `SET TRANSACTION ISOLATION LEVEL REPEATABLE READ`)
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `SELECT FROM outbox.messages`)
	require.NoError(t, err)
	names := func() (names []string) {
		h, err := newActs(pool).health(t.Context())
		require.NoError(t, err)
		assert.True(t, h.SeesAll)
		for _, s := range h.Snapshots {
			names = append(names, s.Name)
		}
		return names
	}
	assert.Contains(t, names(), "a report")
	require.NoError(t, tx.Rollback(t.Context()))
	assert.NotContains(t, names(), "a report")
}
