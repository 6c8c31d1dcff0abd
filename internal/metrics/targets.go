package metrics

import "sync"

// MaxTargets bounds the values of the label target, and of the label breaker, beside
// OtherTargets. Fifty make a chart that a person can read.
const MaxTargets = 50

// OtherTargets is the label of all targets beyond MaxTargets.
const OtherTargets = "other"

// targets are the first ones that a process has met. It is safe for concurrent use.
type targets struct {
	limit int

	mu    sync.RWMutex
	known map[string]bool
}

func newTargets(limit int) *targets { return &targets{limit: limit, known: map[string]bool{}} }

// label is target, or OtherTargets where there is no room for one more.
func (t *targets) label(target string) string {
	t.mu.RLock()
	known, full := t.known[target], len(t.known) >= t.limit
	t.mu.RUnlock()
	switch {
	case known:
		return target
	case full:
		return OtherTargets
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.known) >= t.limit && !t.known[target] {
		return OtherTargets
	}
	t.known[target] = true
	return target
}
