package outboxdb

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
)

func due(names ...string) []mark {
	marks := make([]mark, 0, len(names))
	for _, n := range names {
		marks = append(marks, mark{Destination: n, Due: true})
	}
	return marks
}

func names(marks []mark) []string {
	all := make([]string, 0, len(marks))
	for _, m := range marks {
		all = append(all, m.Destination)
	}
	return all
}

func took(destination string, at time.Time) claimedRow {
	return claimedRow{row: row{Destination: destination}, WasAvailableAt: at}
}

func TestWalkRemembers(t *testing.T) {
	t.Parallel()
	var w walk
	w.remember(due("a", "b"))
	require.Equal(t, []string{"a", "b"}, names(w.marks))
	require.Empty(t, w.from)

	w.remember(due("b", "c"))
	require.Equal(t, []string{"b", "c", "a"}, names(w.marks), "those that are due, in turn, before those that are not")
	require.True(t, w.anyDue())
	w.remember(nil)
	require.Equal(t, []string{"b", "c", "a"}, names(w.marks), "they may have more soon")
	require.False(t, w.anyDue())

	full := make([]mark, walkDestinations)
	for i := range full {
		full[i] = mark{Destination: fmt.Sprintf("d%03d", i), Due: i%2 == 0}
	}
	w.remember(full)
	require.Equal(t, "d255", w.from, "the next walk goes on there")
	require.Len(t, w.marks, walkDestinations)
	require.Len(t, slices.DeleteFunc(slices.Clone(w.marks), func(m mark) bool { return !m.Due }), walkDestinations/2, "no due one is dropped")
	w.remember(due("z"))
	require.Empty(t, w.from)
	require.Equal(t, "z", w.marks[0].Destination)
	require.Len(t, w.marks, walkDestinations)
}

func TestWalkAsks(t *testing.T) {
	t.Parallel()
	w := walk{marks: append(due("a", "b"), mark{Destination: "later"}), walked: true}
	req := outflow.ClaimRequest{MaxMessages: 5, MaxBytes: 1, Allowance: 3, Open: map[string]int{"b": 1}}
	require.Equal(t, []string{"a", "b"}, w.ask(req, nil).destinations, "after a walk, what it found due")
	require.Equal(t, []int32{3, 2}, w.ask(req, nil).quotas)
	w.walked = false
	require.Equal(t, []string{"a", "b", "later"}, w.ask(req, nil).destinations, "between walks, all")
	req.Open["b"] = 3
	require.Equal(t, []string{"a", "later"}, w.ask(req, nil).destinations)
	req.MaxMessages = 2
	require.Equal(t, []int32{2, 2}, w.ask(req, nil).quotas)
}

func TestWalkLearns(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	w := walk{marks: due("a", "b", "c", "paused")}
	a := asked{destinations: []string{"a", "b", "c"}, quotas: []int32{2, 2, 2}}
	w.learn(a, []claimedRow{took("b", at.Add(time.Second)), took("a", at), took("b", at)}, 10)
	require.Equal(t, []mark{
		{Destination: "c"}, {Destination: "paused", Due: true}, {Destination: "a", At: at}, {Destination: "b", At: at.Add(time.Second), Due: true},
	}, w.marks, "who was served goes to the end; b's quota was used up")

	// Where the claim as a whole was bounded, nobody who was asked is done.
	w = walk{marks: []mark{{Destination: "a"}, {Destination: "b"}}}
	w.learn(asked{destinations: []string{"a", "b"}, quotas: []int32{9, 9}}, []claimedRow{took("a", at), took("a", at)}, 2)
	require.True(t, w.marks[0].Due && w.marks[1].Due)
	cut := took("a", at)
	cut.Seen = 2
	w = walk{marks: []mark{{Destination: "a"}, {Destination: "b"}}}
	w.learn(asked{destinations: []string{"a", "b"}, quotas: []int32{9, 9}}, []claimedRow{cut}, 10)
	require.True(t, w.marks[0].Due && w.marks[1].Due)

	// And an empty claim ends it: no flag stays up that a claim could lower.
	w.learn(asked{destinations: []string{"a", "b"}, quotas: []int32{9, 9}}, nil, 10)
	require.False(t, w.anyDue())
	require.Len(t, w.marks, 2)
}
