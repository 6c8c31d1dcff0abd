package outboxdb_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

// backlogged is the destination that the tests of streams deliver to.
const backlogged = "sqs://backlogged"

// backlog commits n messages to it, one microsecond apart, and returns their IDs in that order.
func backlog(t testing.TB, pool *pgxpool.Pool, n int) []uuid.UUID {
	t.Helper()
	return values[uuid.UUID](t, pool, `
		WITH new AS (
		    INSERT INTO outbox.messages (id, destination, type, payload, due_at, available_at)
		    SELECT gen_random_uuid(), $1, 'a', '{}', d.at, d.at
		      FROM generate_series(1, $2::int) AS n,
		           LATERAL (SELECT now() - interval '1 minute' + n * interval '1 microsecond' AS at) AS d
		    RETURNING id, available_at)
		SELECT id FROM new ORDER BY available_at`, backlogged, n)
}

// nextPage asks for a page that nothing bounds.
func nextPage(holder uuid.UUID) outbox.PageRequest {
	return outbox.PageRequest{Destination: backlogged, Holder: holder, MaxMessages: 2000, MaxBytes: 1 << 30}
}

func claimPage(t testing.TB, s *outboxdb.Store, req outbox.PageRequest) outbox.Page {
	t.Helper()
	page, err := s.ClaimPage(t.Context(), req)
	require.NoError(t, err)
	return page
}

func pageIDs(p outbox.Page) []uuid.UUID {
	ids := make([]uuid.UUID, 0, len(p.Messages))
	for _, m := range p.Messages {
		ids = append(ids, m.ID)
	}
	return ids
}

// acknowledged are the ends of acknowledged messages of a page.
func acknowledged(p outbox.Page) []outbox.Ending {
	endings := make([]outbox.Ending, 0, len(p.Messages))
	for _, m := range p.Messages {
		endings = append(endings, outbox.Ending{Ref: m.Ref(), State: outflow.Delivered, BrokerMessageID: "broker-1",
			Attempts: 1, Streamed: true})
	}
	return endings
}

// finish writes ends, which must succeed.
func finish(t testing.TB, s *outboxdb.Store, endings ...outbox.Ending) []outbox.Finished {
	t.Helper()
	finished := s.FinishAll(t.Context(), endings)
	for _, f := range finished {
		require.NoError(t, f.Err)
	}
	return finished
}

func phases(t testing.TB, pool *pgxpool.Pool) map[string]int {
	t.Helper()
	counts := map[string]int{}
	for _, line := range values[string](t, pool,
		`SELECT state || CASE WHEN available_at > now() AND state = 'pending' THEN ', leased' ELSE '' END
		   FROM outbox.messages`) {
		counts[line]++
	}
	return counts
}

// noteStream has starters leave the destination's messages to a stream.
func noteStream(t testing.TB, s *outboxdb.Store, ended outbox.StreamEnd) {
	t.Helper()
	require.NoError(t, s.NoteStream(t.Context(), outbox.StreamState{Destination: backlogged, Ended: ended}, false))
}

// A stream has rows that nobody has started since the enqueue or an operator's act. Whatever may have a
// run, or is not due, or is to be claimed alone, is no row of it.
func TestPageHasWhatNobodyHasStarted(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]string{
		"a run may be alive: the start had no answer": `started = true`,
		"the same, given back uncounted":              `started = true, claims = 0`,
		"leased":                                      `started = true, parked = true, available_at = now() + interval '1 minute'`,
		"off the fast path":                           `retrying = true`,
		"quarantined":                                 `claims = 5`,
		"delayed": `parked = true, due_at = now() + interval '1 hour',
			available_at = now() + interval '1 hour'`,
		"put back":   `started = true, parked = true, available_at = now() + interval '1 second'`,
		"dead":       `state = 'dead', finished_at = now()`,
		"another's":  `destination = 'sqs://another'`,
		"a follower": `ordering_key = 'k', follower = true, parked = true, available_at = '9999-12-31Z'`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := teststack.New(t)
			store := outboxdb.New(pool)
			ids := backlog(t, pool, 3)
			execute(t, pool, `UPDATE outbox.messages SET `+set+` WHERE id = $1`, ids[1])
			before := stands(t, pool, ids[1])
			for range 2 {
				page := claimPage(t, store, nextPage(uuid.New()))
				require.NotContains(t, pageIDs(page), ids[1])
			}
			after := stands(t, pool, ids[1])
			require.Equal(t, before.Claims, after.Claims)
			require.Equal(t, before.AvailableAt, after.AvailableAt, "it stays with whom it is")
			require.Equal(t, 2, value[int](t, pool, `SELECT count(*) FROM outbox.messages WHERE streamed`))
		})
	}
}

// A row that somebody has started is left to a run, which starters claim by an index of its own while a
// stream runs, and as any other once it has ended.
func TestStartedRowsAreHandedOver(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store, starter := outboxdb.New(pool), outboxdb.New(pool)
	ids := backlog(t, pool, 5)
	execute(t, pool, `UPDATE outbox.messages SET started = true WHERE id = ANY ($1)`, ids[:2])
	noteStream(t, store, "")
	require.Empty(t, claim(t, starter, request()).Messages, "all of them are left to the stream, which has not looked")
	require.Equal(t, ids[2:], pageIDs(claimPage(t, store, nextPage(uuid.New()))))
	require.ElementsMatch(t, ids[:2], idsOf(claim(t, starter, request())))

	execute(t, pool, `UPDATE outbox.messages SET parked = false, available_at = now(), claims = 0`)
	require.ElementsMatch(t, ids[:2], idsOf(claim(t, starter, request())), "again and again, if their runs are lost")
	execute(t, pool, `UPDATE outbox.messages SET parked = false, available_at = now(), claims = 0`)
	noteStream(t, store, outbox.StreamDrained)
	require.ElementsMatch(t, ids, idsOf(claim(t, starter, request())), "no stream runs")
}

// Claims of starters and pages of streams share the rows, whoever comes first: no row is taken twice,
// none is left. Before the first note a starter knows of no stream.
func TestClaimsBesideStreams(t *testing.T) {
	t.Parallel()
	const rows = 6000
	pool := teststack.New(t)
	ids := backlog(t, pool, rows)
	var mu sync.Mutex
	taken := map[uuid.UUID]int{}
	var left atomic.Int64
	left.Store(rows)
	take := func(got []uuid.UUID) {
		mu.Lock()
		defer mu.Unlock()
		for _, id := range got {
			taken[id]++
		}
		left.Add(-int64(len(got)))
	}
	var working sync.WaitGroup
	var streamed, tracked atomic.Int64
	deadline := time.Now().Add(time.Minute)
	for range 4 {
		working.Go(func() {
			store, holder := outboxdb.New(pool), uuid.New()
			req := nextPage(holder)
			for req.MaxMessages = 150; left.Load() > 0 && time.Now().Before(deadline); {
				page, err := store.ClaimPage(t.Context(), req)
				if err != nil {
					t.Errorf("a page: %v", err)
					return
				}
				take(pageIDs(page))
				streamed.Add(int64(len(page.Messages)))
			}
		})
		working.Go(func() {
			store, req := outboxdb.New(pool), request()
			for req.MaxMessages = 150; left.Load() > 0 && time.Now().Before(deadline); {
				store.WalkNext()
				got, err := store.Claim(t.Context(), req)
				if err != nil {
					t.Errorf("a claim: %v", err)
					return
				}
				take(idsOf(got))
				tracked.Add(int64(len(got.Messages)))
			}
		})
	}
	working.Wait()
	require.Len(t, taken, rows)
	for _, id := range ids {
		require.Equal(t, 1, taken[id], "each row once")
	}
	require.Positive(t, streamed.Load())
	require.Positive(t, tracked.Load())
	t.Logf("%d by streams, %d by starters", streamed.Load(), tracked.Load())
	require.EqualValues(t, streamed.Load(), value[int64](t, pool, `SELECT sum(messages) FROM outbox.pages`))
	require.EqualValues(t, streamed.Load(),
		value[int64](t, pool, `SELECT count(*) FROM outbox.messages AS m
			JOIN outbox.pages AS p ON p.at = m.available_at WHERE m.streamed`))
}

// More rows than a page has became due at the same instant: each page goes on where the one before
// ended, and passes none over.
func TestPagesOfOneInstant(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	backlog(t, pool, 4300)
	later := backlog(t, pool, 1)[0]
	execute(t, pool, `UPDATE outbox.messages SET available_at = '2020-01-01Z' WHERE id <> $1`, later)
	req := nextPage(uuid.New())
	req.From = time.Date(2019, 1, 1, 0, 0, 0, 0, time.UTC)
	seen := map[uuid.UUID]bool{}
	var sizes []int
	for range 5 {
		page := claimPage(t, store, req)
		sizes = append(sizes, len(page.Messages))
		for _, m := range page.Messages {
			require.False(t, seen[m.ID])
			seen[m.ID] = true
		}
		if len(page.Messages) > 0 {
			require.False(t, page.Next.Before(req.From), "it goes on")
			req.From = page.Next
		}
	}
	require.Equal(t, []int{2000, 2000, 301, 0, 0}, sizes)
	require.Len(t, seen, 4301)
	require.True(t, seen[later])
	require.Equal(t, 3, value[int](t, pool, `SELECT count(DISTINCT at) FROM outbox.pages`),
		"each page has a name of its own")
}

// Pages come in the order in which messages became due, and the next one begins behind them: a look
// passes no dead rows of the pages before.
func TestPagesMoveOn(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	ids := backlog(t, pool, 30)
	req := nextPage(uuid.New())
	req.MaxMessages = 10
	var got []uuid.UUID
	for range 3 {
		page := claimPage(t, store, req)
		require.True(t, page.Next.After(req.From))
		req.From = page.Next
		got = append(got, pageIDs(page)...)
	}
	for i := range 3 {
		require.ElementsMatch(t, ids[10*i:10*i+10], got[10*i:10*i+10])
	}
	late := backlog(t, pool, 1)
	execute(t, pool, `UPDATE outbox.messages SET available_at = '2020-01-01Z' WHERE id = $1`, late[0])
	require.Empty(t, claimPage(t, store, req).Messages, "it was committed late")
	req.From = time.Time{}
	require.Equal(t, late, pageIDs(claimPage(t, store, req)), "a look from the beginning finds it")
}

// A page is bounded in bytes: the message that crosses the bound is its last. It is not passed over,
// and neither are those behind it.
func TestPageIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	backlog(t, pool, 12)
	execute(t, pool, `UPDATE outbox.messages SET payload = convert_to(repeat('p', 100000), 'UTF8')`)
	req := nextPage(uuid.New())
	req.MaxBytes = 250_000
	var sizes []int
	for range 5 {
		page := claimPage(t, store, req)
		sizes = append(sizes, len(page.Messages))
		if len(page.Messages) > 0 {
			req.From = page.Next
		}
	}
	require.Equal(t, []int{3, 3, 3, 3, 0}, sizes)
}

// A message's expiry counts from when the claim was sent, and not from when it began to wait for a
// connection.
func TestPageIsClaimedWhenItIsSent(t *testing.T) {
	t.Parallel()
	pool := another(t, teststack.New(t), func(c *pgxpool.Config) { c.MaxConns = 1 })
	store := outboxdb.New(pool)
	backlog(t, pool, 2)
	conn, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	released := make(chan time.Time, 1)
	time.AfterFunc(100*time.Millisecond, func() { released <- time.Now(); conn.Release() })
	page := claimPage(t, store, nextPage(uuid.New()))
	require.Len(t, page.Messages, 2)
	require.False(t, page.ClaimedAt.Before(<-released))
}

func TestNoPageBehindAnOpenBreaker(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	backlog(t, pool, 3)
	execute(t, pool, `INSERT INTO outbox.destinations (destination, failing_since, openings, open_until)
		VALUES ($1, now(), 1, now() + interval '1 minute')`, backlogged)
	page := claimPage(t, store, outbox.PageRequest{Destination: backlogged, MaxMessages: 10, MaxBytes: 1000})
	require.Empty(t, page.Messages)
	require.True(t, page.HeldBack)
	idle := claimPage(t, store, outbox.PageRequest{Destination: "sqs://idle", MaxMessages: 10, MaxBytes: 1000})
	require.False(t, idle.HeldBack)
	require.Zero(t, value[int](t, pool, `SELECT count(*) FROM outbox.pages`))
	execute(t, pool, `DELETE FROM outbox.destinations`)
	require.Len(t, claimPage(t, store, nextPage(uuid.New())).Messages, 3)
}

// handOver hands messages of a page over.
func handOver(t *testing.T, s *outboxdb.Store, page outbox.Page, messages []outbox.PageMessage) bool {
	t.Helper()
	done, err := s.HandOver(t.Context(), page.PageRef, handedOver(messages))
	require.NoError(t, err)
	require.Empty(t, done.Locked)
	return done.Enough
}

func handedOver(messages []outbox.PageMessage) (failed []outbox.Unfinished) {
	for _, m := range messages {
		failed = append(failed, outbox.Unfinished{Ref: m.Ref(), LastError: "throttled", Attempts: 5})
	}
	return failed
}

// At most 200 messages that a stream could not send have runs of their own. Beyond that they wait as
// rows, which no stream takes again.
func TestHandOver(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store, starter := outboxdb.New(pool), outboxdb.New(pool)
	backlog(t, pool, 250)
	noteStream(t, store, "")
	page := claimPage(t, store, nextPage(uuid.New()))
	require.True(t, handOver(t, store, page, page.Messages[:190]))
	done, err := store.HandOver(t.Context(), page.PageRef, handedOver(page.Messages[190:202]))
	require.NoError(t, err)
	require.Equal(t, outbox.HandedOver{Messages: 10}, done, "two more than there is room for")
	require.Equal(t, 200, value[int](t, pool, `SELECT count(*) FROM outbox.messages WHERE retrying`))
	handed := stands(t, pool, page.Messages[0].ID)
	require.True(t, handed.Retrying)
	require.Equal(t, 5, handed.Attempts)
	require.Zero(t, handed.Claims, "it failed with an error: it crashes nothing")
	require.Equal(t, "throttled", *handed.LastError)
	require.False(t, stands(t, pool, page.Messages[200].ID).Retrying)

	require.Len(t, claim(t, starter, request()).Messages, 200)
	execute(t, pool, `UPDATE outbox.messages SET available_at = now(), parked = false WHERE id = $1`,
		page.Messages[200].ID)
	require.Empty(t, claimPage(t, store, nextPage(uuid.New())).Messages, "a run may follow: no stream claims it")
	require.Equal(t, 48, value[int](t, pool,
		`SELECT count(*) FROM outbox.messages WHERE streamed AND available_at > now()`))
}

// Messages that a claim has handed over, because a run may have them, take no room from those that
// failed.
func TestHandOverBesideStartedMessages(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	backlog(t, pool, 301)
	execute(t, pool, `
		UPDATE outbox.messages SET started = true
		 WHERE id IN (SELECT id FROM outbox.messages ORDER BY available_at LIMIT 300)`)
	page := claimPage(t, store, nextPage(uuid.New()))
	require.Len(t, page.Messages, 1)
	require.Equal(t, 300, value[int](t, pool, `SELECT count(*) FROM outbox.messages WHERE retrying`))
	require.True(t, handOver(t, store, page, page.Messages))
}

// A page that was freed, and claimed by another stream since, is not its first holder's any more.
func TestHandOverIsOfItsPage(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	backlog(t, pool, 2)
	stalled, next := uuid.New(), uuid.New()
	page := claimPage(t, store, nextPage(stalled))
	freePages(t, pool, store, next)
	second := claimPage(t, store, nextPage(next))
	require.Len(t, second.Messages, 2)

	require.True(t, handOver(t, store, page, page.Messages[:1]))
	leavePage(t, store, page, unsent(page.Messages[1:]))
	require.NoError(t, store.EndPage(t.Context(), page.PageRef))
	require.Equal(t, map[string]int{"pending, leased": 2}, phases(t, pool), "the second holder sends them")
	require.Equal(t, 2, value[int](t, pool,
		`SELECT count(*) FROM outbox.messages WHERE streamed AND available_at = $1`, second.At))
	execute(t, pool, `UPDATE outbox.messages SET generation = 2`)
	require.True(t, handOver(t, store, second, second.Messages), "an answer about another generation")
	require.Zero(t, value[int](t, pool, `SELECT count(*) FROM outbox.messages WHERE retrying`))
}

// While a stream runs, starters leave fresh messages to it; for each end they know whether others are
// begun.
func TestStreamsHint(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		ended                  outbox.StreamEnd
		leaves, wanted, paused bool
	}{
		{ended: "", leaves: true},
		{ended: outbox.StreamTurn, leaves: true},
		{ended: outbox.StreamStopped, leaves: true},
		{ended: outbox.StreamDrained, wanted: true},
		{ended: outbox.StreamFailing},
		{ended: outbox.StreamCancelled},
		{ended: outbox.StreamPaused, wanted: true, paused: true},
	} {
		t.Run(fmt.Sprintf("%q", c.ended), func(t *testing.T) {
			t.Parallel()
			pool := teststack.New(t)
			store := outboxdb.New(pool)
			ids := backlog(t, pool, 3)
			noteStream(t, store, "")
			require.Empty(t, claim(t, outboxdb.New(pool), request()).Messages)
			noteStream(t, store, c.ended)
			wanted, err := store.WantStreams(t.Context(), []string{backlogged}, 2)
			require.NoError(t, err)
			require.Equal(t, c.wanted, slices.Contains(wanted, backlogged), "another may be begun")
			require.Equal(t, c.paused, value[bool](t, pool, `SELECT paused FROM outbox.streams`))
			require.Equal(t, c.leaves, value[bool](t, pool, `SELECT runs_until IS NOT NULL FROM outbox.streams`))
			got := idsOf(claim(t, outboxdb.New(pool), request()))
			if c.leaves {
				require.Empty(t, got)
				execute(t, pool, `UPDATE outbox.streams SET runs_until = now() - interval '1 millisecond'`)
				got = idsOf(claim(t, outboxdb.New(pool), request()))
			}
			require.ElementsMatch(t, ids, got, "a hint that nobody renews ends by itself")
		})
	}
}

// A starter announces the stream that it has begun. A worker that has noted more by then knows better.
func TestAnnounceStream(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	stands := func() string {
		return value[string](t, pool, `
			SELECT concat_ws(' ', runs_until > now(), delivered, ended, not_before > now()) FROM outbox.streams`)
	}
	announce := func() {
		require.NoError(t, store.AnnounceStream(t.Context(), backlogged))
	}
	note := func(ended outbox.StreamEnd) {
		state := outbox.StreamState{Destination: backlogged, Progress: outbox.Progress{Delivered: 7}, Ended: ended}
		require.NoError(t, store.NoteStream(t.Context(), state, true))
	}
	announce()
	require.Equal(t, "t 0", stands())
	note("")
	announce()
	require.Equal(t, "t 7", stands(), "it runs, and has delivered")
	note(outbox.StreamFailing)
	announce()
	require.Equal(t, "7 failing t", stands(), "it has ended already")
	execute(t, pool, `UPDATE outbox.streams SET ended_at = now() - interval '11 seconds'`)
	announce()
	require.Equal(t, "t 0", stands(), "another had ended")
}

// Streams are begun for backlogs above a destination's own bound, or the starter's.
func TestWantStreams(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	backlog(t, pool, 11)
	wants := func(above int) bool {
		wanted, err := store.WantStreams(t.Context(), []string{backlogged, "sqs://idle"}, above)
		require.NoError(t, err)
		return slices.Equal(wanted, []string{backlogged})
	}
	require.True(t, wants(10))
	require.False(t, wants(11))
	require.False(t, wants(0), "off")
	set := func(column string) {
		execute(t, pool, `DELETE FROM outbox.streams`)
		execute(t, pool, `INSERT INTO outbox.streams (destination, `+column+`)`, backlogged)
	}
	set(`above) VALUES ($1, 10`)
	require.True(t, wants(0), "its own bound goes first")
	set(`above) VALUES ($1, 0`)
	require.False(t, wants(1), "never")
	set(`runs_until) VALUES ($1, now() + interval '1 second'`)
	require.False(t, wants(1), "one runs")
	set(`not_before) VALUES ($1, now() + interval '1 second'`)
	require.False(t, wants(1))
	set(`paused) VALUES ($1, true`)
	require.True(t, wants(1), "its run may be gone; where it is not, Temporal refuses another")
	execute(t, pool, `DELETE FROM outbox.streams`)
	execute(t, pool, `UPDATE outbox.messages SET parked = true, available_at = now() + interval '1 day'`)
	require.False(t, wants(1), "they are in pages")
}

// The ends of a page's messages are written by one statement that fails for none of them because of
// another.
func TestFinishAll(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	backlog(t, pool, 4)
	page := claimPage(t, store, nextPage(uuid.New()))
	ends := acknowledged(page)
	ends[1].State, ends[1].LastError = outflow.Dead, "too large"
	gone := outbox.Ending{Ref: ref(uuid.New()), State: outflow.Delivered, Streamed: true}
	release := lockRow(t, pool, ends[2].ID)
	finished := store.FinishAll(t.Context(), append(ends, gone))
	require.Equal(t, outflow.Delivered, finished[0].State)
	require.Equal(t, outflow.Dead, finished[1].State)
	require.Error(t, finished[2].Err, "another session has locked it")
	require.ErrorIs(t, finished[4].Err, outflow.ErrNotFound)
	require.NoError(t, store.EndPage(t.Context(), page.PageRef))
	require.Equal(t, 1, value[int](t, pool, `SELECT count(*) FROM outbox.pages`), "a message is still in it")
	release()
	require.Equal(t, outflow.Delivered, finish(t, store, ends[2])[0].State)
	require.NoError(t, store.EndPage(t.Context(), page.PageRef))
	require.Zero(t, value[int](t, pool, `SELECT count(*) FROM outbox.pages`))
	require.NoError(t, errors.Join(finish(t, store, ends...)[0].Err), "again changes nothing")
	require.Equal(t, 1, value[int](t, pool, `SELECT max(attempts) FROM outbox.messages`))

	backlog(t, pool, 3)
	page = claimPage(t, store, nextPage(uuid.New()))
	ends = acknowledged(page)
	execute(t, pool, `UPDATE outbox.messages SET attempts = 1 WHERE id = $1`, ends[1].ID)
	ends[1].Attempts = math.MaxInt32
	finished = store.FinishAll(t.Context(), ends)
	require.Equal(t, outflow.Delivered, finished[0].State)
	require.ErrorContains(t, finished[1].Err, "out of range")
	require.Equal(t, outflow.Delivered, finished[2].State,
		"a value that Postgres refuses keeps no other end from being written")
}

// A stream has begun when its first note is written, whichever attempt of it writes that.
func TestNoteOfAStreamThatBegins(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	execute(t, pool, `INSERT INTO outbox.streams (destination, above) VALUES ($1, 0)`, backlogged)
	began := func() time.Time {
		return value[time.Time](t, pool, `SELECT coalesce(started_at, 'epoch') FROM outbox.streams`)
	}
	noteStream(t, store, "")
	first := began()
	require.WithinDuration(t, time.Now(), first, time.Hour)
	for _, goesOn := range []outbox.StreamEnd{outbox.StreamTurn, outbox.StreamStopped, outbox.StreamPaused} {
		noteStream(t, store, goesOn)
		noteStream(t, store, "")
		require.Equal(t, first, began(), "%s", goesOn)
	}
	for _, over := range []outbox.StreamEnd{outbox.StreamDrained, outbox.StreamFailing, outbox.StreamCancelled} {
		before := began()
		noteStream(t, store, over)
		require.Equal(t, before, began())
		noteStream(t, store, "")
		require.True(t, began().After(before), "%s", over)
	}
}
