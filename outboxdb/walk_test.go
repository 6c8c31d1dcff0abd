package outboxdb

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/outbox"
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

	// A page of others' destinations pushes out neither those that were served last nor
	// those that are still due.
	w.marks[2].served = time.Now() // "a"
	for page := range 2 * maxDueMarks / walkDestinations {
		full := make([]mark, walkDestinations)
		for i := range full {
			name := fmt.Sprintf("d%d-%03d", page, i)
			full[i] = mark{Destination: name, Target: name, Due: true}
		}
		last := full[walkDestinations-1].Destination
		w.remember(full)
		require.Equal(t, last, w.from, "the next walk goes on there")
	}
	require.LessOrEqual(t, len(w.marks), maxDueMarks+maxServedMarks)
	require.Contains(t, names(w.marks), "a")
	w.remember(due("z"))
	require.Empty(t, w.from)
	require.Contains(t, names(w.marks), "z")
	require.Contains(t, names(w.marks), "a")
}

// Within a target that has more destinations than a walk visits, the next walk goes on
// where this one stopped, and begins again after the last.
func TestWalkCursors(t *testing.T) {
	t.Parallel()
	var w walk
	part := func(from, n int) (found []mark) {
		for i := range n {
			found = append(found, mark{Destination: fmt.Sprintf("https://host/%03d", from+i), Target: "https://host",
				Due: true})
		}
		return found
	}
	w.remember(part(0, walkWithin))
	require.Equal(t, map[string]string{"https://host": fmt.Sprintf("https://host/%03d", walkWithin-1)}, w.cursors)
	w.remember(part(walkWithin, 3))
	require.Empty(t, w.cursors)
	require.True(t, slices.ContainsFunc(w.marks,
		func(m mark) bool { return m.Destination == "https://host/000" && m.Due }),
		"the walk did not come by")
	w.remember(nil)
	require.False(t, w.anyDue())
}

func TestClaimArgs(t *testing.T) {
	t.Parallel()
	h := newBreakers(nil)
	w := walk{marks: append(due("a", "b"), mark{Destination: "later", covered: true}), walked: true}
	req := outbox.ClaimRequest{MaxMessages: 5, MaxBytes: 1, Allowance: 3, Open: map[string]int{"b": 1}}
	require.Equal(t, []string{"a", "b"}, w.claimArgs(req, h, time.Now()).destinations,
		"after a walk, what it found due")
	require.Equal(t, []int32{3, 2}, w.claimArgs(req, h, time.Now()).quotas)
	w.walked = false
	require.Equal(t, []string{"a", "b", "later"}, w.claimArgs(req, h, time.Now()).destinations, "between walks, all")
	req.Open["b"] = 3
	require.Equal(t, []string{"a", "later"}, w.claimArgs(req, h, time.Now()).destinations)
	req.MaxMessages = 2
	require.Equal(t, []int32{2, 2}, w.claimArgs(req, h, time.Now()).quotas)
}

func TestMarksMove(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	w := walk{marks: due("a", "b", "c", "paused")}
	a := claimArgs{destinations: []string{"a", "b", "c"}, quotas: []int32{2, 2, 2}}
	w.moveMarks(a, []claimedRow{took("b", at.Add(time.Second)), took("a", at), took("b", at)}, 10)
	for i := range w.marks {
		require.Equal(t, i > 1, !w.marks[i].served.IsZero())
		w.marks[i].served = time.Time{}
	}
	require.Equal(t, []mark{
		{Destination: "paused", Due: true}, {Destination: "c"}, {Destination: "a", At: at}, {Destination: "b",
			At: at.Add(time.Second), Due: true},
	}, w.marks, "those in the claim come behind the others, those that were served at the end; b's quota was used up")

	// Where the claim as a whole was bounded, no destination in it is done.
	w = walk{marks: []mark{{Destination: "a"}, {Destination: "b"}}}
	w.moveMarks(claimArgs{destinations: []string{"a", "b"}, quotas: []int32{9, 9}},
		[]claimedRow{took("a", at), took("a", at)}, 2)
	require.True(t, w.marks[0].Due && w.marks[1].Due)
	cut := took("a", at)
	cut.Seen = 2
	w = walk{marks: []mark{{Destination: "a"}, {Destination: "b"}}}
	w.moveMarks(claimArgs{destinations: []string{"a", "b"}, quotas: []int32{9, 9}}, []claimedRow{cut}, 10)
	require.True(t, w.marks[0].Due && w.marks[1].Due)

	// And an empty claim ends it: no flag stays up that a claim could lower.
	w.moveMarks(claimArgs{destinations: []string{"a", "b"}, quotas: []int32{9, 9}}, nil, 10)
	require.False(t, w.anyDue())
	require.Len(t, w.marks, 2)
}

// A page that ends within a target comes to the target's end on the next page: its
// cursor goes, and the walk after begins at the target's first destination.
func TestACursorGoesWhereAPageBeganWithinItsTarget(t *testing.T) {
	t.Parallel()
	const target = "https://b.example.org"
	w := walk{
		from:    target + "/0080",
		cursors: map[string]string{target: target + "/0080"},
	}
	w.remember([]mark{{Destination: target + "/0090", Target: target, Due: true}})
	require.Empty(t, w.cursors)
}

// https://b.example.org/ sorts before https://b.example/: a page that ends at the former
// has not come to the latter.
func TestACursorStaysWhereAPageEndedBeforeItsTarget(t *testing.T) {
	t.Parallel()
	cursors := map[string]string{"https://b.example": "https://b.example/0010"}
	w := walk{cursors: cursors}
	w.moveCursors(nil, "", "https://b.example.org/0050")
	require.Equal(t, map[string]string{"https://b.example": "https://b.example/0010"}, w.cursors)
}
