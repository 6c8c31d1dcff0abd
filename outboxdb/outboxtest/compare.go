package outboxtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
)

func requireEqual(t testing.TB, want []outflow.Message, got []row) {
	t.Helper()
	if slices.ContainsFunc(want, func(m outflow.Message) bool { return m.Destination == outflow.ByRoute }) {
		got = byGroup(got)
	}
	if text := compare(want, got); text != "" {
		t.Fatal(text)
	}
}

// compare describes how got differs from want. It returns "" where they are equal.
func compare(want []outflow.Message, got []row) string {
	fits := make([][]bool, len(want))
	for i, w := range want {
		fits[i] = make([]bool, len(got))
		for j, g := range got {
			fits[i][j] = len(differences(w, g)) == 0
		}
	}
	pairs := pair(fits, len(got))
	var b strings.Builder
	for i, w := range want {
		if slices.Contains(pairs, i) {
			continue
		}
		fmt.Fprintf(&b, "\nmissing:     %s", describe(w))
		if j := closest(w, got, pairs); j >= 0 {
			fmt.Fprintf(&b, "\n  closest is %s", describe(got[j].message()))
			for _, difference := range differences(w, got[j]) {
				fmt.Fprintf(&b, "\n    %s", difference)
			}
		}
	}
	for j, g := range got {
		if pairs[j] < 0 {
			fmt.Fprintf(&b, "\nnot wanted:  %s", describe(g.message()))
		}
	}
	if b.Len() == 0 {
		return ""
	}
	return fmt.Sprintf("outboxtest: wants %d messages, of %d that were enqueued:%s", len(want), len(got), b.String())
}

// pair assigns to as many wanted messages as possible one of the got messages each, with
// augmenting paths: a vague wanted message must not take the only match of a precise one. The
// result has, for each got message, the index of its wanted message or -1.
func pair(fits [][]bool, got int) []int {
	pairs := slices.Repeat([]int{-1}, got)
	var place func(i int, tried []bool) bool
	place = func(i int, tried []bool) bool {
		for j := range got {
			if !fits[i][j] || tried[j] {
				continue
			}
			tried[j] = true
			if pairs[j] < 0 || place(pairs[j], tried) {
				pairs[j] = i
				return true
			}
		}
		return false
	}
	for i := range fits {
		place(i, make([]bool, got))
	}
	return pairs
}

// closest returns the index of the unpaired message with the fewest differences from w, or -1.
func closest(w outflow.Message, got []row, pairs []int) int {
	best, fewest := -1, 0
	for j, g := range got {
		n := len(differences(w, g))
		if pairs[j] < 0 && (best < 0 || n < fewest) {
			best, fewest = j, n
		}
	}
	return best
}

// differences lists the fields of w that differ in g.
func differences(w outflow.Message, g row) []string {
	var found []string
	differ := func(field string, want, got any) {
		found = append(found, fmt.Sprintf("%s: wants %v, got %v", field, want, got))
	}
	if w.ID != uuid.Nil && w.ID != g.ID {
		differ("ID", w.ID, g.ID)
	}
	if w.Destination != "" && canonical(w.Destination) != g.Destination {
		differ("Destination", w.Destination, g.Destination)
	}
	if w.Callback != "" && canonical(w.Callback) != g.Callback {
		differ("Callback", w.Callback, g.Callback)
	}
	for _, text := range []struct{ field, want, got string }{
		{"Type", w.Type, g.Type}, {"ContentType", w.ContentType, g.ContentType},
		{"OrderingKey", w.OrderingKey, g.OrderingKey},
	} {
		if text.want != "" && text.want != text.got {
			differ(text.field, text.want, text.got)
		}
	}
	if w.Payload != nil && !samePayload(w.Payload, g.Payload) {
		differ("Payload", show(w.Payload), show(g.Payload))
	}
	for _, name := range slices.Sorted(maps.Keys(w.Headers)) {
		if value, ok := g.Headers[name]; !ok {
			differ("Headers", fmt.Sprintf("%s=%q", name, w.Headers[name]), "none of this name")
		} else if value != w.Headers[name] {
			differ("Headers", fmt.Sprintf("%s=%q", name, w.Headers[name]), fmt.Sprintf("%q", value))
		}
	}
	for _, at := range []struct {
		field     string
		want, got time.Time
	}{{"DueAt", w.DueAt, g.DueAt}, {"ExpiresAt", w.ExpiresAt, g.ExpiresAt}} {
		// Postgres keeps microseconds.
		if !at.want.IsZero() && !at.want.Round(time.Microsecond).Equal(at.got) {
			differ(at.field, at.want, at.got)
		}
	}
	for _, in := range []struct {
		field string
		want  time.Duration
		got   time.Time
	}{{"DueIn", w.DueIn, g.DueAt}, {"ExpiresIn", w.ExpiresIn, g.ExpiresAt}} {
		if in.want == 0 || !in.got.IsZero() && in.got.Sub(g.EnqueuedAt) == in.want.Truncate(time.Microsecond) {
			continue
		}
		if in.got.IsZero() {
			differ(in.field, in.want, "never")
		} else {
			differ(in.field, in.want, in.got.Sub(g.EnqueuedAt))
		}
	}
	return found
}

func canonical(destination string) string {
	d, err := outflow.ParseDestination(destination)
	if err != nil {
		return destination
	}
	return d.String()
}

func samePayload(want, got []byte) bool {
	if bytes.Equal(want, got) {
		return true
	}
	w, wantIsJSON := decodeJSON(want)
	g, gotIsJSON := decodeJSON(got)
	return wantIsJSON && gotIsJSON && reflect.DeepEqual(w, g)
}

// decodeJSON keeps numbers as they are written: two different numbers beyond 2^53 can be the
// same float64.
func decodeJSON(payload []byte) (decoded any, ok bool) {
	d := json.NewDecoder(bytes.NewReader(payload))
	d.UseNumber()
	if !json.Valid(payload) || d.Decode(&decoded) != nil {
		return nil, false
	}
	return decoded, true
}

// describe returns a message as one line.
func describe(m outflow.Message) string {
	destination, kind := m.Destination, m.Type
	if destination == "" {
		destination = "any destination"
	}
	if kind == "" {
		kind = "any type"
	}
	if m.Payload == nil {
		return fmt.Sprintf("%s to %s", kind, destination)
	}
	return fmt.Sprintf("%s to %s: %s", kind, destination, show(m.Payload))
}

// show returns a payload as readable text of limited length.
func show(payload []byte) string {
	const limit = 500
	text := string(payload[:min(len(payload), limit)])
	if !utf8.Valid(payload) {
		text = fmt.Sprintf("%q", text)
	}
	if len(payload) > limit {
		return fmt.Sprintf("%s… (%d bytes)", strings.ToValidUTF8(text, ""), len(payload))
	}
	return text
}
