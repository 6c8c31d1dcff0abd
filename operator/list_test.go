package operator

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

// list reads all pages.
func list(t *testing.T, o acts, f ListFilter) []uuid.UUID {
	t.Helper()
	var ids []uuid.UUID
	for pages := 0; ; pages++ {
		require.Less(t, pages, 100)
		page, next, err := o.List(t.Context(), f)
		require.NoError(t, err)
		require.LessOrEqual(t, len(page), f.Limit)
		for _, s := range page {
			ids = append(ids, s.ID)
		}
		if next == "" {
			return ids
		}
		require.Len(t, page, f.Limit)
		f.After = next
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o, store := newActs(pool), outboxdb.New(pool)
	var dead, pending, retrying []uuid.UUID
	for i := range 7 {
		m := message(fmt.Sprintf("sqs://q%d", i%2))
		m.Type = fmt.Sprintf("type-%d", i%3)
		dead = append(dead, finished(t, pool, m, outflow.Dead))
	}
	// Some ended at the same moment, as those of one statement do.
	execute(t, pool, `UPDATE outbox.messages SET finished_at = date_trunc('day', now()) - interval '1 day' WHERE id = ANY ($1)`, dead[:4])
	for i := range 5 {
		retrying = append(retrying, enqueue(t, pool, message(fmt.Sprintf("sqs://r%d", i%2)))[0])
	}
	for _, m := range claim(t, pool, request()).Messages {
		_, err := store.Renew(t.Context(), outbox.Renewal{Ref: m.Ref(), Lease: time.Minute, LastError: "timeout"})
		require.NoError(t, err)
	}
	pending = enqueue(t, pool, messages("sqs://p", 6)...)
	all := slices.Concat(dead, pending, retrying)

	for name, c := range map[string]struct {
		filter ListFilter
		want   []uuid.UUID
	}{
		"everything":    {ListFilter{}, all},
		"a type":        {ListFilter{Type: "type-1"}, []uuid.UUID{dead[1], dead[4]}},
		"a destination": {ListFilter{Destination: "sqs://p"}, pending},
		"dead":          {ListFilter{State: outflow.Dead}, dead},
		"dead of a destination": {ListFilter{State: outflow.Dead, Destination: "sqs://q1"},
			[]uuid.UUID{dead[1], dead[3], dead[5]}},
		"dead since an hour": {ListFilter{State: outflow.Dead, Since: TimeBound{Set: true, Ago: time.Hour}},
			dead[4:]},
		"dead until an hour ago": {ListFilter{State: outflow.Dead, Until: TimeBound{Set: true, Ago: time.Hour}},
			dead[:4]},
		"dead since tomorrow": {ListFilter{State: outflow.Dead,
			Since: TimeBound{Set: true, At: time.Now().Add(24 * time.Hour)}}, nil},
		"delivered":                {ListFilter{State: outflow.Delivered}, nil},
		"pending":                  {ListFilter{State: outflow.Pending}, slices.Concat(pending, retrying)},
		"pending of a destination": {ListFilter{State: outflow.Pending, Destination: "sqs://p"}, pending},
		"pending until an hour ago": {ListFilter{State: outflow.Pending, Until: TimeBound{Set: true, Ago: time.Hour}},
			nil},
		"retrying": {ListFilter{Retrying: true}, retrying},
		"retrying of a destination": {ListFilter{Retrying: true, Destination: "sqs://r0"},
			[]uuid.UUID{retrying[0], retrying[2], retrying[4]}},
		"pending since an hour": {ListFilter{State: outflow.Pending, Since: TimeBound{Set: true, Ago: time.Hour}},
			slices.Concat(pending, retrying)},
		"pending and it is retrying": {ListFilter{State: outflow.Pending, Retrying: true}, retrying},
	} {
		t.Run(name, func(t *testing.T) {
			whole := c.filter
			whole.Limit = 1000
			once := list(t, o, whole)
			assert.ElementsMatch(t, c.want, once)
			for _, limit := range []int{1, 3} {
				paged := c.filter
				paged.Limit = limit
				assert.Equal(t, once, list(t, o, paged), "in pages of %d", limit)
			}
		})
	}
	_, next, err := o.List(t.Context(), ListFilter{State: outflow.Dead, Limit: 1})
	require.NoError(t, err)
	for _, f := range []ListFilter{{State: outflow.Pending, After: next, Limit: 1}, {After: "nonsense", Limit: 1}} {
		_, _, err = o.List(t.Context(), f)
		require.ErrorIs(t, err, ErrCursor)
	}
}

// firstStatement is the first statement of a list, with its arguments.
func firstStatement(f ListFilter) (string, []any) {
	queries, err := listQueries(f)
	if err != nil {
		panic(err)
	}
	return queries[0].statement(f.Limit + 1), queries[0].args
}

// Every list is read along an index: a page costs what it shows, and no list of
// thousands is sorted for it.
func TestListPlans(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	beginLoad(t, pool)
	execute(t, pool, `
		INSERT INTO outbox.messages (id, destination, type, payload, state, finished_at, retrying, available_at)
		SELECT lpad(to_hex(n), 32, '0')::uuid, 'sqs://q' || n % 5, 'a', '{}', s.state, s.finished_at, n % 4 = 0, now() + n * interval '1 ms'
		  FROM generate_series(1, 30000) AS n
		 CROSS JOIN LATERAL (SELECT CASE n % 4 WHEN 1 THEN 'delivered' WHEN 2 THEN 'dead' ELSE 'pending' END AS state,
		                            CASE WHEN n % 4 IN (1, 2) THEN now() - n * interval '1 ms' END AS finished_at) AS s`)
	execute(t, pool, `ANALYZE outbox.messages`)
	for name, f := range map[string]ListFilter{
		"any":                     {},
		"dead":                    {State: outflow.Dead},
		"delivered":               {State: outflow.Delivered, Destination: "sqs://q1"},
		"pending":                 {State: outflow.Pending},
		"pending, a destination":  {State: outflow.Pending, Destination: "sqs://q3"},
		"retrying":                {Retrying: true},
		"retrying, a destination": {Retrying: true, Destination: "sqs://q4"},
	} {
		t.Run(name, func(t *testing.T) {
			f.Limit = 50
			cursor := ""
			for range 3 {
				f.After = cursor
				statement, args := firstStatement(f)
				var explained []struct{ Plan teststack.Plan }
				require.NoError(t, json.Unmarshal(value[[]byte](t, pool,
					`EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) `+statement, args...), &explained))
				p := explained[0].Plan
				p.Each(func(n teststack.Plan) {
					assert.NotEqual(t, "Sort", n.Node)
					assert.NotContains(t, n.Node, "Seq Scan")
				})
				assert.LessOrEqual(t, p.Buffers(), 600)
				page, next, err := newActs(pool).List(t.Context(), f)
				require.NoError(t, err)
				require.Len(t, page, 50)
				cursor = next
			}
		})
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o, store := newActs(pool), outboxdb.New(pool)
	for range 5 {
		finished(t, pool, message("sqs://a"), outflow.Delivered)
	}
	finished(t, pool, message("sqs://b"), outflow.Delivered)
	finished(t, pool, message("sqs://b"), outflow.Dead)
	retrying := enqueue(t, pool, message("sqs://a"))[0]
	claim(t, pool, request())
	_, err := store.Renew(t.Context(), outbox.Renewal{Ref: ref(retrying), Lease: time.Minute, LastError: "timeout"})
	require.NoError(t, err)
	enqueue(t, pool, message("sqs://a"))
	claim(t, pool, request())
	enqueue(t, pool, messages("sqs://a", 2)...)
	execute(t, pool, `UPDATE outbox.messages SET due_at = now() - interval '1 hour' WHERE state = 'pending'`)
	enqueue(t, pool, outflow.Message{Destination: "sqs://c", Type: "a", Payload: []byte("{}"), DueIn: time.Hour})
	execute(t, pool, `INSERT INTO outbox.destinations (destination, failures, failing_since, openings, open_until, last_error)
		VALUES ('sqs://a', 7, now() - interval '1 minute', 1, now() + interval '1 minute', 'throttled')`)
	execute(t, pool, `INSERT INTO outbox.destinations (destination, delivered_at) VALUES ('sqs://b', now())`)

	counts, breakers, err := o.Status(t.Context(), 4)
	require.NoError(t, err)
	got := map[string]int{}
	for _, c := range counts {
		got[c.Destination+" "+c.Phase] = c.Messages
		switch c.Phase {
		case "waiting", "leased", "retrying":
			assert.InDelta(t, 3600, c.OldestSeconds, 60)
		case "delayed":
			assert.Zero(t, c.OldestSeconds)
		}
		assert.Equal(t, c.Phase == "delivered", c.AtLeast, "%+v", c)
	}
	// The newest four of six: one of b, three of a.
	assert.Equal(t, map[string]int{"sqs://a waiting": 2, "sqs://a leased": 1, "sqs://a retrying": 1, "sqs://c delayed": 1,
		"sqs://b dead": 1, "sqs://a delivered": 3, "sqs://b delivered": 1}, got)
	require.Len(t, breakers, 1)
	assert.Equal(t, "sqs://a", breakers[0].Destination)
	assert.True(t, breakers[0].Open)
	assert.Equal(t, 7, breakers[0].Failures)

	counts, _, err = o.Status(t.Context(), 6)
	require.NoError(t, err)
	for _, c := range counts {
		assert.False(t, c.AtLeast, "%+v", c)
	}
	targets, err := o.pendingTargets(t.Context(), 10)
	require.NoError(t, err)
	assert.Equal(t, []pendingTarget{
		{Scheme: "sqs", Destination: "sqs://a", Messages: 4, OfScheme: 2, DueInScheme: true},
		{Scheme: "sqs", Destination: "sqs://c", Messages: 1, OfScheme: 2, DueInScheme: true},
	}, targets)
}

// Status separates messages that wait without a run from those that are being delivered, and says
// why they wait.
func TestStatusOfWaitingMessages(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o, store := newActs(pool), outboxdb.New(pool)
	putBack := enqueue(t, pool, messages("sqs://a", 2)...)
	claim(t, pool, request())
	_, err := store.PutBack(t.Context(), outbox.PutBack{Ref: ref(putBack[0]), LastError: "500"})
	require.NoError(t, err)
	held := enqueue(t, pool, message("https://shop.example/in"))[0]
	refusing := request()
	refusing.Refuse = func(d string) error {
		if !strings.HasPrefix(d, "https:") {
			return nil
		}
		return errors.New("the host is not allowed")
	}
	require.Empty(t, claim(t, pool, refusing).Messages)

	counts, _, err := o.Status(t.Context(), 10)
	require.NoError(t, err)
	got := map[string]string{}
	for _, c := range counts {
		got[c.Destination+" "+c.Phase] = fmt.Sprint(c.Messages, " ", c.LastError)
	}
	assert.Equal(t, map[string]string{"sqs://a leased": "1 ", "sqs://a waiting": "1 500",
		"https://shop.example/in waiting": "1 the host is not allowed"}, got)
	s, err := o.Message(t.Context(), held)
	require.NoError(t, err)
	assert.Equal(t, "waiting", s.Phase)
}

// An act finds its messages by primary key, whatever the planner knows.
func TestActPlans(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	beginLoad(t, pool)
	execute(t, pool, `
		INSERT INTO outbox.messages (id, destination, type, payload, state, finished_at)
		SELECT lpad(to_hex(n), 32, '0')::uuid, 'sqs://q' || n % 5, 'a', '{}', CASE n % 3 WHEN 0 THEN 'delivered' WHEN 1 THEN 'dead' ELSE 'pending' END,
		       CASE WHEN n % 3 < 2 THEN now() - n * interval '1 second' END
		  FROM generate_series(1, 60000) AS n`)
	var ids, newIDs []string
	for n := range 20 {
		ids, newIDs = append(ids, fmt.Sprintf("00000000-0000-0000-0000-%012x", 30_000+n)), append(newIDs,
			uuid.NewString())
	}
	for _, statistics := range []string{"none", "fresh"} {
		if statistics == "fresh" {
			execute(t, pool, `ANALYZE outbox.messages`)
		}
		for name, c := range map[string]struct {
			statement string
			args      []any
		}{
			"retry":      {retrySQL, []any{ids, "ada", "", "sqs://new"}},
			"redirect":   {redirectSQL, []any{ids, "ada", "", "sqs://new"}},
			"reschedule": {rescheduleSQL, []any{ids, "ada", "", "2030-01-01Z", "1 hour"}},
			"release":    {releaseSQL, []any{ids[:1], "ada", "", 1, "2030-01-01Z"}},
			"resend":     {resendSQL, []any{ids, "ada", "", newIDs}},
			"callbacks":  {failingCallbacksSQL, nil},
			"blocked":    {blockedSQL, nil},
			"stranded":   {strandedSQL, nil},
			"status":     {statusNewestSQL, []any{"delivered", 100}},
		} {
			if name == "status" && statistics == "none" {
				continue // it sorts, because the planner expects a few rows; people can wait for that
			}
			for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
				t.Run(statistics+"/"+mode+"/"+name, func(t *testing.T) {
					p := teststack.Explain(t, pool, mode, c.statement, c.args...)
					p.Each(func(n teststack.Plan) {
						assert.False(t, n.Table == "messages" && n.Node == "Seq Scan")
						assert.LessOrEqual(t, n.Removed*n.Loops, 50.0, "%s on %s reads what it does not use", n.Node,
							n.Index)
					})
					t.Logf("%d buffers", p.Buffers())
					assert.LessOrEqual(t, p.Buffers(), 600)
				})
			}
		}
	}
}
