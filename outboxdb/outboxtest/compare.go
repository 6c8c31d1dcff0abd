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
	if text := compare(want, got); text != "" {
		t.Fatal(text)
	}
}

// compare says how got differs from want, or nothing.
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
		fmt.Fprintf(&b, "\nmissing:     %s", brief(w))
		if j := closest(w, got, pairs); j >= 0 {
			fmt.Fprintf(&b, "\n  closest is %s", brief(got[j].message()))
			for _, difference := range differences(w, got[j]) {
				fmt.Fprintf(&b, "\n    %s", difference)
			}
		}
	}
	for j, g := range got {
		if pairs[j] < 0 {
			fmt.Fprintf(&b, "\nnot wanted:  %s", brief(g.message()))
		}
	}
	if b.Len() == 0 {
		return ""
	}
	return fmt.Sprintf("outboxtest: wants %d messages, of %d that were enqueued:%s", len(want), len(got), b.String())
}

// pair gives as many of the wanted as possible one of the got each: a vague one
// must not take what only a precise one fits (augmenting paths). It returns the
// index of the wanted by that of the got, or -1.
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

// closest is the message that nobody wants and that differs least from w, or -1.
func closest(w outflow.Message, got []row, pairs []int) int {
	best, least := -1, 0
	for j, g := range got {
		n := len(differences(w, g))
		if pairs[j] < 0 && (best < 0 || n < least) {
			best, least = j, n
		}
	}
	return best
}

// differences names the fields of w that g has otherwise.
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
		{"Type", w.Type, g.Type}, {"ContentType", w.ContentType, g.ContentType}, {"OrderingKey", w.OrderingKey, g.OrderingKey},
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
	for _, moment := range []struct {
		field     string
		want, got time.Time
	}{{"DueAt", w.DueAt, g.DueAt}, {"ExpiresAt", w.ExpiresAt, g.ExpiresAt}} {
		// Postgres keeps microseconds.
		if !moment.want.IsZero() && !moment.want.Round(time.Microsecond).Equal(moment.got) {
			differ(moment.field, moment.want, moment.got)
		}
	}
	for _, span := range []struct {
		field string
		want  time.Duration
		got   time.Time
	}{{"DueIn", w.DueIn, g.DueAt}, {"ExpiresIn", w.ExpiresIn, g.ExpiresAt}} {
		if span.want == 0 || !span.got.IsZero() && span.got.Sub(g.EnqueuedAt) == span.want.Truncate(time.Microsecond) {
			continue
		}
		if span.got.IsZero() {
			differ(span.field, span.want, "never")
		} else {
			differ(span.field, span.want, span.got.Sub(g.EnqueuedAt))
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
	w, wantIsJSON := number(want)
	g, gotIsJSON := number(got)
	return wantIsJSON && gotIsJSON && reflect.DeepEqual(w, g)
}

// number decodes JSON and keeps its numbers as they are written: beyond 2^53
// two of them could be one float.
func number(payload []byte) (decoded any, ok bool) {
	d := json.NewDecoder(bytes.NewReader(payload))
	d.UseNumber()
	if !json.Valid(payload) || d.Decode(&decoded) != nil {
		return nil, false
	}
	return decoded, true
}

// brief is a message on one line.
func brief(m outflow.Message) string {
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

// show makes a payload readable, and not endless.
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
