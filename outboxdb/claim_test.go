package outboxdb_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

func TestClaim(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	fresh := func(t *testing.T) *outboxdb.Store {
		execute(t, pool, `TRUNCATE outbox.messages`)
		return outboxdb.New(pool)
	}

	t.Run("what is due, in the order of insertion", func(t *testing.T) {
		store := fresh(t)
		delayed := message("sqs://a")
		delayed.DueIn = time.Hour
		ids := enqueue(t, pool, message("sqs://b"), message("sqs://a"), delayed, message("sqs://b"), message("sqs://c"))
		before := value[time.Time](t, pool, `SELECT clock_timestamp()`)
		got := claim(t, store, request())
		require.Equal(t, []uuid.UUID{ids[0], ids[1], ids[3], ids[4]}, idsOf(got))
		require.False(t, got.Backlog)
		for _, m := range got.Messages {
			s := stands(t, pool, m.ID)
			require.Equal(t, 1, s.Claims)
			require.Equal(t, "pending", s.State)
			require.True(t, s.AvailableAt.Equal(m.LeasedUntil))
			require.WithinRange(t, m.LeasedUntil, before.Add(time.Minute), before.Add(time.Minute+10*time.Second))
			require.Equal(t, message("").Payload, m.Payload)
			require.Equal(t, outflow.Pending, m.State)
			require.Equal(t, 1, m.Generation)
		}
		require.Zero(t, stands(t, pool, ids[2]).Claims)
		require.Empty(t, claim(t, store, request()).Messages, "leased")
	})
	t.Run("a delayed one when its time has come", func(t *testing.T) {
		store := fresh(t)
		m := message("sqs://a")
		m.DueIn = time.Hour
		id := enqueue(t, pool, m)[0]
		require.Empty(t, claim(t, store, request()).Messages)
		execute(t, pool, `UPDATE outbox.messages SET available_at = now()`)
		require.Equal(t, []uuid.UUID{id}, idsOf(claim(t, store, request())))
	})
	t.Run("one whose lease ran out, and counts again", func(t *testing.T) {
		store := fresh(t)
		id := enqueue(t, pool, message("sqs://a"))[0]
		first := claim(t, store, request()).Messages[0]
		execute(t, pool, `UPDATE outbox.messages SET available_at = now()`)
		second := claim(t, store, request()).Messages[0]
		require.Equal(t, id, second.ID)
		require.True(t, second.LeasedUntil.After(first.LeasedUntil))
		require.Equal(t, 2, stands(t, pool, id).Claims)
	})
	t.Run("no final one", func(t *testing.T) {
		store := fresh(t)
		for _, state := range []string{"delivered", "dead", "expired", "cancelled"} {
			id := enqueue(t, pool, message("sqs://a"))[0]
			execute(t, pool, `UPDATE outbox.messages SET state = $2, finished_at = now() WHERE id = $1`, id, state)
		}
		require.Empty(t, claim(t, store, request()).Messages)
	})
	t.Run("each destination's allowance less what is open", func(t *testing.T) {
		store := fresh(t)
		for _, d := range []string{"sqs://a", "sqs://b", "sqs://c", "sqs://d"} {
			enqueue(t, pool, messages(d, 10)...)
		}
		req := request()
		req.Allowance, req.Open = 6, map[string]int{"sqs://b": 4, "sqs://c": 6, "sqs://d": 7}
		got := claim(t, store, req)
		require.Equal(t, map[string]int{"sqs://a": 6, "sqs://b": 2}, byDestination(got))
		require.True(t, got.Backlog)
	})
	t.Run("the oldest of a destination first", func(t *testing.T) {
		store := fresh(t)
		ids := enqueue(t, pool, messages("sqs://a", 5)...)
		execute(t, pool, `UPDATE outbox.messages SET available_at = now() - interval '1 minute' WHERE id = ANY ($1)`,
			ids[3:])
		req := request()
		req.MaxMessages = 2
		require.Equal(t, ids[3:], idsOf(claim(t, store, req)))
	})
	t.Run("MaxMessages", func(t *testing.T) {
		store := fresh(t)
		enqueue(t, pool, messages("sqs://a", 10)...)
		req := request()
		req.MaxMessages = 7
		got := claim(t, store, req)
		require.Len(t, got.Messages, 7)
		require.True(t, got.Backlog)
		got = claim(t, store, req)
		require.Len(t, got.Messages, 3)
		require.False(t, got.Backlog)
	})
	t.Run("MaxBytes, with the message that crosses it", func(t *testing.T) {
		store := fresh(t)
		msgs := messages("sqs://a", 5)
		for i := range msgs {
			msgs[i].Payload = make([]byte, 100)
		}
		ids := enqueue(t, pool, msgs...)
		req := request()
		req.MaxBytes = 201
		got := claim(t, store, req)
		require.Equal(t, ids[:3], idsOf(got))
		require.True(t, got.Backlog)
		for _, id := range ids[3:] {
			require.Zero(t, stands(t, pool, id).Claims, "left as it was")
		}
		store.HoldWalk() // what was left over is above the mark
		req.MaxBytes = 100
		rest, err := store.Claim(t.Context(), req)
		require.NoError(t, err)
		require.Equal(t, ids[3:4], idsOf(rest), "a message as large as the bound is the only one")
		req.MaxBytes = 1
		require.Equal(t, ids[4:], idsOf(claim(t, store, req)), "one larger than the bound is not stuck")
	})
	t.Run("MaxBytes counts headers", func(t *testing.T) {
		store := fresh(t)
		msgs := messages("sqs://a", 4)
		for i := range msgs {
			msgs[i].Payload, msgs[i].Headers = []byte("x"), map[string]string{"h": strings.Repeat("x", 100)}
		}
		ids := enqueue(t, pool, msgs...)
		req := request()
		req.MaxBytes = 150
		require.Equal(t, ids[:2], idsOf(claim(t, store, req)))
	})
	t.Run("nothing asked for", func(t *testing.T) {
		store := fresh(t)
		enqueue(t, pool, message("sqs://a"))
		for _, change := range []func(*outbox.ClaimRequest){
			func(r *outbox.ClaimRequest) { r.MaxMessages = 0 },
			func(r *outbox.ClaimRequest) { r.MaxBytes = 0 },
			func(r *outbox.ClaimRequest) { r.Allowance = 0 },
		} {
			req := request()
			change(&req)
			require.Empty(t, claim(t, store, req).Messages)
		}
		require.Len(t, claim(t, store, request()).Messages, 1)
	})
	t.Run("what the database refuses is no claim", func(t *testing.T) {
		store := fresh(t)
		ids := enqueue(t, pool, message("sqs://a"))
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		store.WalkNext()
		_, err := store.Claim(ended, request())
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorContains(t, err, "finding destinations")
		require.Equal(t, ids, idsOf(claim(t, store, request())))
	})
	t.Run("a row that another transaction holds is passed over", func(t *testing.T) {
		store := fresh(t)
		ids := enqueue(t, pool, messages("sqs://a", 3)...)
		inTx(t, pool, func(tx pgx.Tx) {
			_, err := tx.Exec(t.Context(), `SELECT FROM outbox.messages WHERE id = $1 FOR UPDATE`, ids[1])
			require.NoError(t, err)
			inTime, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			claimed, err := store.Claim(inTime, request())
			require.NoError(t, err)
			require.Equal(t, []uuid.UUID{ids[0], ids[2]}, idsOf(claimed))
		})
		require.Equal(t, ids[1:2], idsOf(claim(t, store, request())))
	})
}

func TestClaimStatements(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	watched, statements := traced(t, pool)
	store := outboxdb.New(watched)
	unpark, walk, take := outboxdb.StatementUnpark, outboxdb.StatementDueDestinations, outboxdb.StatementClaim
	ask := func(req outbox.ClaimRequest) []string {
		statements.take()
		_, err := store.Claim(t.Context(), req)
		require.NoError(t, err)
		return statements.take()
	}

	require.Equal(t, []string{unpark, walk}, ask(request()), "an empty table")
	delayed := message("sqs://later")
	delayed.DueIn = time.Hour
	enqueue(t, pool, delayed)
	store.WalkNext()
	require.Equal(t, []string{unpark, walk}, ask(request()), "nothing is due")
	enqueue(t, pool, messages("sqs://a", 3)...)
	store.WalkNext()
	require.Equal(t, []string{unpark, walk, take}, ask(request()), "work")
	store.WalkNext()
	require.Equal(t, []string{unpark, walk}, ask(request()), "idle, with a walk")
	store.HoldWalk()
	require.Equal(t, []string{take}, ask(request()), "idle, between walks")
	full := request()
	full.Allowance = 1
	full.Open = map[string]int{"sqs://a": 1, "sqs://later": 1}
	require.Empty(t, ask(full), "no room, between walks")
	// A new message of a known destination is found without a walk.
	ids := enqueue(t, pool, message("sqs://a"))
	claimed, err := store.Claim(t.Context(), request())
	require.NoError(t, err)
	require.Equal(t, ids, idsOf(claimed))

	// So is one that a producer's commit is the reason to claim for: whatever else is due can wait.
	hinted := request()
	hinted.Hinted = true
	store.WalkNext()
	enqueue(t, pool, message("sqs://a"), message("sqs://new"))
	require.Equal(t, []string{take}, ask(hinted), "a message of a known destination")
	require.Equal(t, []string{take, unpark, walk, take}, ask(hinted)[:4], "a message of another")
}

// Two scanners share the table: each row goes to one of them, none is left.
func TestClaimConcurrently(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	const rows = 2000
	for i := range 4 {
		enqueue(t, pool, messages(fmt.Sprintf("sqs://queue-%d", i), rows/4)...)
	}
	var mu sync.Mutex
	claims := make(map[uuid.UUID]int)
	by := make([]int, 2)
	var scanners sync.WaitGroup
	start := make(chan struct{})
	for scanner := range by {
		scanners.Go(func() {
			store := outboxdb.New(pool)
			req := request()
			req.MaxMessages, req.Allowance = 60, 40
			<-start
			for {
				mu.Lock()
				all := len(claims) >= rows
				mu.Unlock()
				if all || t.Context().Err() != nil {
					return
				}
				claimed, err := store.Claim(t.Context(), req)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				for _, m := range claimed.Messages {
					claims[m.ID]++
				}
				by[scanner] += len(claimed.Messages)
				mu.Unlock()
			}
		})
	}
	close(start)
	scanners.Wait()
	require.Len(t, claims, rows)
	for id, n := range claims {
		require.Equal(t, 1, n, "%s was claimed twice", id)
	}
	require.Zero(t, value[int](t, pool, `SELECT count(*) FROM outbox.messages WHERE claims <> 1`))
	require.NotContains(t, by, 0, "both had their share: %v", by)
}

// A row that was made before the mark moved, and committed after, lies below
// the mark: the next walk brings the mark back.
func TestClaimLateCommit(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	slow, err := pool.Begin(t.Context())
	require.NoError(t, err)
	late, err := outboxdb.Enqueue(t.Context(), slow, message("sqs://a"))
	require.NoError(t, err)

	early := enqueue(t, pool, messages("sqs://a", 5)...)
	require.Equal(t, early, idsOf(claim(t, store, request())))
	require.NoError(t, slow.Commit(t.Context()))
	store.HoldWalk()
	claimed, err := store.Claim(t.Context(), request())
	require.NoError(t, err)
	require.Empty(t, claimed.Messages, "between walks, a claim starts at the mark")
	require.Equal(t, late, idsOf(claim(t, store, request())))
}

func TestClaimTurns(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	small := request()
	small.MaxMessages = 5
	large := []string{"sqs://a", "sqs://b", "sqs://c"}

	for _, walks := range []bool{true, false} {
		t.Run(fmt.Sprintf("walking every time: %t", walks), func(t *testing.T) {
			execute(t, pool, `TRUNCATE outbox.messages`)
			store := outboxdb.New(pool)
			for _, d := range large {
				enqueue(t, pool, messages(d, 100)...)
			}
			claim(t, store, small)
			next := func() outbox.Claimed {
				if walks {
					return claim(t, store, small)
				}
				store.HoldWalk()
				claimed, err := store.Claim(t.Context(), small)
				require.NoError(t, err)
				return claimed
			}
			served := make(map[string]int)
			for range 6 {
				got := next()
				require.True(t, got.Backlog)
				for d, n := range byDestination(got) {
					served[d] += n
				}
			}
			require.Equal(t, map[string]int{"sqs://a": 10, "sqs://b": 10, "sqs://c": 10}, served)

			// A new destination waits for those before it once, not for their ends.
			enqueue(t, pool, messages("sqs://new", 3)...)
			claimed := claim(t, store, small)
			for range len(large) {
				if byDestination(claimed)["sqs://new"] > 0 {
					break
				}
				claimed = next()
			}
			require.Equal(t, 3, byDestination(claimed)["sqs://new"])
		})
	}
}

// A walk visits a bounded number of destinations, and of each target fewer; the next
// goes on there. So each has its turn, whether they are queues or paths of one host.
func TestClaimManyDestinations(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		destination string
		allowance   int
	}{
		"queues":          {"sqs://queue-%04d", 1},
		"paths of hosts":  {"https://example-%d.org/hooks", 1},
		"paths of a host": {"https://example.org/%04d", 40},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := teststack.New(t)
			store := outboxdb.New(pool)
			const destinations = 2*outboxdb.WalkDestinations + 88
			msgs := make([]outflow.Message, 0, 2*destinations)
			for i := range destinations {
				msgs = append(msgs, messages(fmt.Sprintf(c.destination, i), 2)...)
			}
			ids := enqueue(t, pool, msgs...)
			req := request()
			req.Allowance = c.allowance
			var got []uuid.UUID
			for range 2 * len(ids) / c.allowance {
				claimed := claim(t, store, req)
				targets := map[string]int{}
				for d, n := range byDestination(claimed) {
					targets[outbox.TargetOf(d)] += n
				}
				for target, n := range targets {
					require.LessOrEqual(t, n, c.allowance, target)
				}
				got = append(got, idsOf(claimed)...)
				known, _ := store.Remembered()
				require.LessOrEqual(t, len(known), outboxdb.RememberedDue+outboxdb.RememberedServed)
				if len(got) == len(ids) {
					break
				}
			}
			require.ElementsMatch(t, ids, got)
			require.False(t, claim(t, store, req).Backlog)
		})
	}
}
