package scanner

import (
	"log/slog"
	"maps"
	"slices"
	"time"
)

// refusals are destinations that this process can't send to. They are logged together
// once in refusalsEvery: ten thousand of them are one line.
type refusals struct {
	reasons map[string]bool
	found   map[string]bool
	next    time.Time
}

// note logs the refused destinations, if it is time to.
func (r *refusals) note(log *slog.Logger, refused map[string]error) {
	for destination, err := range refused {
		if r.found == nil {
			r.found, r.reasons = map[string]bool{}, map[string]bool{}
		}
		if len(r.found) < mostRefusals {
			r.found[destination] = true
		}
		if len(r.reasons) < shownRefusals {
			r.reasons[err.Error()] = true
		}
	}
	if len(r.found) == 0 || time.Now().Before(r.next) {
		return
	}
	log.Warn("messages wait as rows: this process can't send to their destinations",
		"destinations", len(r.found), "reasons", slices.Sorted(maps.Keys(r.reasons)))
	*r = refusals{next: time.Now().Add(refusalsEvery)}
}

const (
	// mostRefusals bounds what is remembered between two lines, and shownRefusals the
	// reasons of a line: each names its host.
	mostRefusals  = 10_000
	shownRefusals = 5
)
