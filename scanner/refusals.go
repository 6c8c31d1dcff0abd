package scanner

import (
	"log/slog"
	"maps"
	"slices"
	"time"
)

const (
	// refusalsInterval lies between two lines about refused destinations.
	refusalsInterval = time.Minute
	// maxRefusals bounds the destinations that are remembered between two lines, maxRefusalReasons
	// the reasons of a line: each reason names its host.
	maxRefusals       = 10_000
	maxRefusalReasons = 5
)

// refusals are destinations that this process can't send to. One line a minute has them all: ten
// thousand of them are one line.
type refusals struct {
	reasons      map[string]bool
	destinations map[string]bool
	next         time.Time
}

// note adds refused destinations, and logs them when it is time to.
func (r *refusals) note(log *slog.Logger, refused map[string]error) {
	for destination, err := range refused {
		if r.destinations == nil {
			r.destinations, r.reasons = map[string]bool{}, map[string]bool{}
		}
		if len(r.destinations) < maxRefusals {
			r.destinations[destination] = true
		}
		if len(r.reasons) < maxRefusalReasons {
			r.reasons[err.Error()] = true
		}
	}
	if len(r.destinations) == 0 || time.Now().Before(r.next) {
		return
	}
	log.Warn("messages wait as rows: this process can't send to their destinations",
		"destinations", len(r.destinations), "reasons", slices.Sorted(maps.Keys(r.reasons)))
	*r = refusals{next: time.Now().Add(refusalsInterval)}
}
