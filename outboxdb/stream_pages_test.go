package outboxdb_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/operator"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/outboxdb/migrate"
)

// unsent are messages as they leave a page without a try.
func unsent(messages []outbox.PageMessage) (all []outbox.Unfinished) {
	for _, m := range messages {
		all = append(all, outbox.Unfinished{Ref: m.Ref()})
	}
	return all
}

// leavePage gives messages of a page back, of which none is locked.
func leavePage(t testing.TB, s *outboxdb.Store, page outbox.Page, left []outbox.Unfinished) {
	t.Helper()
	locked, err := s.LeavePage(t.Context(), page.PageRef, left)
	require.NoError(t, err)
	require.Empty(t, locked)
}

// lockRow has another session lock a message's row until release.
func lockRow(t testing.TB, pool *pgxpool.Pool, id uuid.UUID) (release func()) {
	t.Helper()
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `SELECT FROM outbox.messages WHERE id = $1 FOR UPDATE`, id)
	require.NoError(t, err)
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	return func() { require.NoError(t, tx.Rollback(t.Context())) }
}

// passTime has time go by for all pages.
func passTime(t testing.TB, pool *pgxpool.Pool, by string) {
	t.Helper()
	execute(t, pool, `UPDATE outbox.pages SET claimed_at = claimed_at - $1::interval, overdue_at = overdue_at - $1::interval`, by)
}

// freePages has the next attempt of a stream free the pages of all others.
func freePages(t testing.TB, pool *pgxpool.Pool, s *outboxdb.Store, holder uuid.UUID) (freed int) {
	t.Helper()
	passTime(t, pool, "1 minute")
	freed, _, err := s.FreePages(t.Context(), backlogged, []uuid.UUID{holder})
	require.NoError(t, err)
	require.Zero(t, freed, "its holder has some seconds to write what it holds")
	passTime(t, pool, "10 seconds")
	freed, left, err := s.FreePages(t.Context(), backlogged, []uuid.UUID{holder})
	require.NoError(t, err)
	require.Zero(t, left)
	return freed
}

// What a lost holder has left behind is freed by the next attempt of its stream, once no request of it
// can be under way and it has had time to write its ends. A holder never frees its own pages.
func TestPagesOfALostHolder(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	backlog(t, pool, 3)
	lost, next := uuid.New(), uuid.New()
	page := claimPage(t, store, nextPage(lost))
	finish(t, store, acknowledged(page)[0])
	free := func(holder uuid.UUID) (freed, left int) {
		freed, left, err := store.FreePages(t.Context(), backlogged, []uuid.UUID{holder})
		require.NoError(t, err)
		return freed, left
	}
	requireFree := func(wantFreed, wantLeft int, why string) {
		t.Helper()
		freed, left := free(next)
		require.Equal(t, wantFreed, freed, why)
		require.Equal(t, wantLeft, left, why)
	}
	passTime(t, pool, "58 seconds")
	requireFree(0, 1, "its requests may be under way")
	passTime(t, pool, "5 seconds")
	requireFree(0, 1, "it is noted as overdue first")
	requireFree(0, 1, "at once is no grace")
	passTime(t, pool, "9 seconds")
	requireFree(0, 1, "its holder may have been without its database, too")
	freed, left := free(lost)
	require.Zero(t, freed+left, "a holder knows its own pages")
	passTime(t, pool, "2 seconds")
	requireFree(2, 0, "what has not ended")
	require.Equal(t, map[string]int{"delivered": 1, "pending": 2}, phases(t, pool))
	second := claimPage(t, store, nextPage(next))
	require.Len(t, second.Messages, 2)
	require.True(t, second.Suspect, "one of them may be what its process was lost to")
	require.False(t, page.Suspect)
}

// Streams that are gone for good, such as with Temporal's namespace: any scanner frees their pages.
func TestPagesOfALostStream(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store, scanner := outboxdb.New(pool), outboxdb.New(pool)
	ids := backlog(t, pool, 3)
	claimPage(t, store, nextPage(uuid.New()))
	free := func() int {
		freed, err := scanner.FreeLostPages(t.Context())
		require.NoError(t, err)
		return freed
	}
	passTime(t, pool, "9 minutes 58 seconds")
	require.Zero(t, free())
	passTime(t, pool, "5 seconds")
	require.Zero(t, free())
	passTime(t, pool, "29 seconds")
	require.Zero(t, free())
	require.Empty(t, claim(t, scanner, request()).Messages)
	passTime(t, pool, "2 seconds")
	require.Equal(t, 3, free())
	require.Zero(t, free())
	require.ElementsMatch(t, ids, idsOf(claim(t, scanner, request())), "and delivered without a stream")
	require.Zero(t, value[int](t, pool, `SELECT count(*) FROM outbox.pages`))
}

// Postgres was away for eleven minutes, and with it everybody's time: a scanner is the first one back,
// and its holder has acknowledgements of the page in hand. It writes them within its grace.
func TestPageAfterALongOutage(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store, scanner := outboxdb.New(pool), outboxdb.New(pool)
	backlog(t, pool, 3)
	holder := uuid.New()
	page := claimPage(t, store, nextPage(holder))
	passTime(t, pool, "11 minutes")
	freed, err := scanner.FreeLostPages(t.Context())
	require.NoError(t, err)
	require.Zero(t, freed)
	require.Empty(t, claim(t, scanner, request()).Messages, "nobody else sends them")
	require.Empty(t, claimPage(t, scanner, nextPage(uuid.New())).Messages)
	finish(t, store, acknowledged(page)...)
	require.NoError(t, store.EndPage(t.Context(), page.PageRef))
	passTime(t, pool, "1 hour")
	freed, err = scanner.FreeLostPages(t.Context())
	require.NoError(t, err)
	require.Zero(t, freed)
	require.Equal(t, map[string]int{"delivered": 3}, phases(t, pool))
}

// A payload that kills its process: with each loss the page of its rows is a tenth, until they are
// quarantined. Rows that share no page with it go on in pages of full size.
func TestLostPagesShrink(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	ids := backlog(t, pool, 2500)
	poison := ids[700]
	var sizes []int
	for range 4 {
		holder := uuid.New()
		freePages(t, pool, store, holder)
		var page outbox.Page
		for req := nextPage(holder); ; req.From = page.Next {
			if page = claimPage(t, store, req); len(page.Messages) == 0 {
				break
			}
			claims := page.Messages[0].Claims
			dies := false
			for _, m := range page.Messages {
				require.Equal(t, claims, m.Claims, "a page has rows that were lost as often")
				dies = dies || m.ID == poison
			}
			require.Equal(t, claims > 1, page.Suspect)
			if dies {
				sizes = append(sizes, len(page.Messages))
				break // with its process
			}
			finish(t, store, acknowledged(page)...)
			require.NoError(t, store.EndPage(t.Context(), page.PageRef))
		}
	}
	require.Equal(t, []int{2000, 200, 20}, sizes, "and then it is no row of a stream")
	require.Equal(t, 20, value[int](t, pool, `SELECT count(*) FROM outbox.messages WHERE state = 'pending' AND claims = 5`))
	require.Equal(t, map[string]int{"delivered": 2480, "pending": 20}, phases(t, pool))
	alone, err := store.ClaimIsolated(t.Context(), time.Minute)
	require.NoError(t, err)
	require.Len(t, alone, 1, "a starter claims each of them alone")
}

// Rows that lost a process share no page with others, which are not to blame.
func TestPageHasEqualClaims(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	ids := backlog(t, pool, 10)
	execute(t, pool, `UPDATE outbox.messages SET claims = 1 WHERE id = ANY ($1)`, ids[3:6])
	req := nextPage(uuid.New())
	page := claimPage(t, store, req)
	require.ElementsMatch(t, append(ids[:3:3], ids[6:]...), pageIDs(page))
	require.False(t, page.Suspect)
	req.From = page.Next
	page = claimPage(t, store, req)
	require.ElementsMatch(t, ids[3:6], pageIDs(page), "and are not passed over")
	require.True(t, page.Suspect)
}

// Messages that were not sent are given back as if nobody had claimed them: at once, uncounted, and to
// streams again.
func TestLeavePage(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	ids := backlog(t, pool, 3)
	page := claimPage(t, store, nextPage(uuid.New()))
	finish(t, store, acknowledged(page)[0])
	superseded := page.Messages[1].Ref()
	execute(t, pool, `UPDATE outbox.messages SET generation = 2 WHERE id = $1`, superseded.ID)
	for range 2 {
		leavePage(t, store, page, unsent(page.Messages))
	}
	require.Equal(t, map[string]int{"delivered": 1, "pending, leased": 1, "pending": 1}, phases(t, pool))
	require.Equal(t, 1, value[int](t, pool, `SELECT count(*) FROM outbox.messages
		WHERE NOT started AND NOT streamed AND NOT parked AND claims = 0 AND id = $1`, page.Messages[2].ID))
	again := claimPage(t, store, nextPage(uuid.New()))
	require.Equal(t, []uuid.UUID{page.Messages[2].ID}, pageIDs(again))
	require.False(t, again.Suspect)
	require.Len(t, ids, 3)
}

// A message that was tried in its page may have been sent. Given back it is due at once and streams may
// claim it, its row has the attempts and the error, and an operator's cancel does not end it as untouched.
func TestLeavePageAfterTries(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	ids := backlog(t, pool, 2)
	page := claimPage(t, store, nextPage(uuid.New()))
	left := unsent(page.Messages)
	left[0].Attempts, left[0].LastError = 2, "no answer"
	leavePage(t, store, page, left)
	tried := stands(t, pool, left[0].ID)
	require.Equal(t, 2, tried.Attempts)
	require.Equal(t, "no answer", *tried.LastError)
	require.Zero(t, tried.Claims)
	require.False(t, tried.Retrying)
	answers, err := store.RequestCancel(t.Context(), []uuid.UUID{left[0].ID, left[1].ID}, "ada", "")
	require.NoError(t, err)
	require.Equal(t, outflow.Pending, answers[0].State, "the broker may have it")
	require.Equal(t, outflow.Cancelled, answers[1].State)
	again := claimPage(t, store, nextPage(uuid.New()))
	require.Equal(t, []uuid.UUID{left[0].ID}, pageIDs(again))
	require.True(t, again.Messages[0].CancelRequested)
	require.Len(t, ids, 2)
}

// A row that another session has locked stays in its page, and the stream learns of it: it tries again.
// Rows that have left the page meanwhile are not among them.
func TestLockedRowsStayInTheirPage(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	backlog(t, pool, 6)
	page := claimPage(t, store, nextPage(uuid.New()))
	finish(t, store, acknowledged(page)[0])
	messages := page.Messages
	unlock := lockRow(t, pool, messages[2].ID)
	locked, err := store.LeavePage(t.Context(), page.PageRef, unsent(messages[:3]))
	require.NoError(t, err)
	require.Equal(t, []uuid.UUID{messages[2].ID}, locked)
	unlockAnother := lockRow(t, pool, messages[4].ID)
	done, err := store.HandOver(t.Context(), page.PageRef, handedOver(messages[3:5]))
	require.NoError(t, err)
	require.Equal(t, outbox.HandedOver{Messages: 1, Enough: true, Locked: []uuid.UUID{messages[4].ID}}, done)
	require.Equal(t, map[string]int{"delivered": 1, "pending": 2, "pending, leased": 3}, phases(t, pool))
	unlock()
	unlockAnother()
	leavePage(t, store, page, unsent(messages[:3]))
	require.True(t, handOver(t, store, page, messages[3:5]))
	require.Equal(t, 5, stands(t, pool, messages[3].ID).Attempts, "once")
	require.Equal(t, 5, stands(t, pool, messages[4].ID).Attempts)
}

// An operator cancels messages: one before a stream claims it, one while it is sent. Only the former
// ends cancelled, and no answer says otherwise.
func TestCancelBesideAPage(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	ids := backlog(t, pool, 2)
	execute(t, pool, `UPDATE outbox.messages SET cancel_requested = true WHERE id = $1`, ids[0])
	page := claimPage(t, store, nextPage(uuid.New()))
	requested := map[uuid.UUID]bool{}
	for _, m := range page.Messages {
		requested[m.ID] = m.CancelRequested
	}
	require.Equal(t, map[uuid.UUID]bool{ids[0]: true, ids[1]: false}, requested, "the claim sees the request")

	answers, err := store.RequestCancel(t.Context(), ids[1:], "ada", "")
	require.NoError(t, err)
	require.Equal(t, outflow.Pending, answers[0].State, "the broker may have it: only its stream knows")
	ended, err := store.EndCancelled(t.Context(), ref(ids[1]), "ada", "")
	require.NoError(t, err)
	require.False(t, ended, "no run has it, but a stream")
	done := finish(t, store, acknowledged(page)...)
	require.Equal(t, outflow.Delivered, done[1].State)
}

// A message whose page was lost may have been sent. An operator's cancel does not end it as untouched.
func TestCancelOfAFreedMessage(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	ids := backlog(t, pool, 1)
	claimPage(t, store, nextPage(uuid.New()))
	require.Equal(t, 1, freePages(t, pool, store, uuid.New()))
	answers, err := store.RequestCancel(t.Context(), ids, "ada", "")
	require.NoError(t, err)
	require.Equal(t, outflow.Pending, answers[0].State)
}

// Whoever supersedes a message in a page: the stream's answer about the old generation changes nothing,
// and the row is whose it is by then.
func TestSupersededInAPage(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	ids := backlog(t, pool, 4)
	page := claimPage(t, store, nextPage(uuid.New()))
	// An operator's act refuses them while they are in the page. After a lost page it does not.
	answers, err := operator.New(pool, nil, "outbox").Reschedule(t.Context(), ids, time.Time{}, time.Hour,
		operator.Actor{Who: "ada"})
	require.NoError(t, err)
	require.Equal(t, operator.Refused, answers[0].Verdict)
	execute(t, pool, `UPDATE outbox.messages SET generation = 2, claims = 0, started = false, streamed = false,
		due_at = now() + interval '1 hour', available_at = now() + interval '1 hour'`)
	stays := func(id uuid.UUID) {
		t.Helper()
		s := stands(t, pool, id)
		require.Equal(t, "pending", s.State)
		require.Equal(t, 2, s.Generation)
		require.InDelta(t, 3600, s.LeasedFor, 60, "it is due when the operator said")
		require.Zero(t, s.Attempts)
	}
	ends := acknowledged(page)
	ends[1].State, ends[1].LastError = outflow.Dead, "too large"
	for i, f := range finish(t, store, ends[:2]...) {
		require.Equal(t, 2, f.Generation)
		stays(ends[i].ID)
	}
	require.True(t, handOver(t, store, page, page.Messages[2:3]))
	stays(page.Messages[2].ID)
	leavePage(t, store, page, unsent(page.Messages[3:]))
	stays(page.Messages[3].ID)
	require.NoError(t, store.EndPage(t.Context(), page.PageRef))
	require.Zero(t, value[int](t, pool, `SELECT count(*) FROM outbox.pages`), "none of them is in it")
}

// A run of an earlier generation makes way for the next start. Where a stream has the message in a page,
// there is nothing to make way for: it would be sent again.
func TestOldRunBesideAPage(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	id := backlog(t, pool, 1)[0]
	execute(t, pool, `UPDATE outbox.messages SET generation = 2`) // an operator's, beside the run of generation 1
	page := claimPage(t, store, nextPage(uuid.New()))
	require.NoError(t, makeWay(t.Context(), store, ref(id)))
	require.Equal(t, page.At.UTC(), stands(t, pool, id).AvailableAt.UTC())
	require.Equal(t, 2, finish(t, store, acknowledged(page)...)[0].Generation)
}

// A message whose page was freed is read again by its run: a holder that was stalled may have written
// its end since the claim.
func TestFreedMessageIsReadAgain(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	stalled, starter := outboxdb.New(pool), outboxdb.New(pool)
	id := backlog(t, pool, 1)[0]
	page := claimPage(t, stalled, nextPage(uuid.New()))
	require.Equal(t, 1, freePages(t, pool, starter, uuid.New()))
	require.Len(t, claim(t, starter, request()).Messages, 1)
	finish(t, stalled, acknowledged(page)...)
	r, err := starter.Load(t.Context(), ref(id))
	require.NoError(t, err)
	require.Equal(t, outflow.Delivered, r.State)
}

// The callback of a streamed message has no run to start it: it is due at once. Waiters are told.
func TestCallbackOfAStreamedMessage(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	ids := backlog(t, pool, 2)
	execute(t, pool, `UPDATE outbox.messages SET callback = 'https://example.com/hook'`)
	page := claimPage(t, store, nextPage(uuid.New()))
	waiter, answers := startWait(t, pool, pool, ids[1])
	finish(t, store, acknowledged(page)...)
	require.Equal(t, outflow.Delivered, requireAnswer(t, answers).State)
	waiter.Close()
	due, err := store.TakeCallbacks(t.Context(), 10, time.Minute)
	require.NoError(t, err)
	require.Len(t, due, 2, "a run's has a minute")
	due, err = store.TakeCallbacks(t.Context(), 10, time.Minute)
	require.NoError(t, err)
	require.Empty(t, due, "each once")
}

// The end of a head in a page releases the next message of its key, for the next page; a dead head
// blocks its key.
func TestOrderInPages(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	a := enqueue(t, pool, keyed(backlogged, "a", 3)...)
	b := enqueue(t, pool, keyed(backlogged, "b", 2)...)
	var got [][]uuid.UUID
	req := nextPage(uuid.New())
	for range 4 {
		page := claimPage(t, store, req)
		if len(page.Messages) == 0 {
			break
		}
		req.From = page.Next
		got = append(got, pageIDs(page))
		ends := acknowledged(page)
		for i := range ends {
			if ends[i].ID == b[0] {
				ends[i].State, ends[i].LastError = outflow.Dead, "refused"
			}
		}
		finish(t, store, ends...)
		require.NoError(t, store.EndPage(t.Context(), page.PageRef))
	}
	require.Len(t, got, 3)
	require.ElementsMatch(t, []uuid.UUID{a[0], b[0]}, got[0])
	require.Equal(t, [][]uuid.UUID{{a[1]}, {a[2]}}, got[1:])
	require.True(t, value[bool](t, pool, `SELECT follower FROM outbox.messages WHERE id = $1`, b[1]))
}

// A row that another session has locked keeps no other row from being freed, and nobody waits for it: the
// holder may write its end before the next look.
func TestLockedRowOfALostPage(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	ids := backlog(t, pool, 3)
	page := claimPage(t, store, nextPage(uuid.New()))
	release := lockRow(t, pool, ids[1])
	free := func() (freed, left int) {
		passTime(t, pool, "1 minute")
		freed, left, err := store.FreePages(t.Context(), backlogged, nil)
		require.NoError(t, err)
		return freed, left
	}
	free() // notes that it is overdue
	freed, left := free()
	require.Equal(t, []int{2, 1}, []int{freed, left})
	require.Len(t, claimPage(t, store, nextPage(uuid.New())).Messages, 2)
	release()
	require.Equal(t, outflow.Delivered, finish(t, store, acknowledged(page)[1])[0].State, "its holder was late, and not too late")
	require.Equal(t, 1, value[int](t, pool, `SELECT count(*) FROM outbox.messages WHERE state = 'delivered'`))
}

// A step down leaves nothing in a page that nobody would free any more.
func TestStepDownFreesPages(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	backlog(t, pool, 3)
	claimPage(t, outboxdb.New(pool), nextPage(uuid.New()))
	for value[bool](t, pool, `SELECT to_regclass('outbox.pages') IS NOT NULL`) {
		_, err := migrate.Down(t.Context(), pool)
		require.NoError(t, err)
	}
	require.Equal(t, 3, value[int](t, pool, `SELECT count(*) FROM outbox.messages WHERE available_at <= now() AND NOT parked`))
}
