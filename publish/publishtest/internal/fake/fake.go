// Package fake has what the fakes of AWS's services share: faults on demand, FIFO deduplication, and
// what a signature says of a request.
//
// The invariants: the first fault that matches a request applies to it, as often as it was injected
// for; and a deduplication ID is known for five minutes, and then forgotten.
package fake

import (
	"net/http"
	"regexp"
	"slices"
	"sync"
	"time"
)

// Faults are the faults of one fake. The zero value has none. It is safe for concurrent use.
type Faults[F any] struct {
	mu    sync.Mutex
	given []*given[F]
}

type given[F any] struct {
	fault F
	times int // 0 means until it is removed
	left  int
}

// Inject adds a fault for that many requests; 0 means until Remove.
func (fs *Faults[F]) Inject(f F, times int) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.given = append(fs.given, &given[F]{fault: f, times: times, left: times})
}

// Remove removes the faults that match.
func (fs *Faults[F]) Remove(matches func(F) bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.given = slices.DeleteFunc(fs.given, func(g *given[F]) bool { return matches(g.fault) })
}

// First returns the first fault that matches, and counts it; nil for none.
func (fs *Faults[F]) First(matches func(F) bool) *F {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, g := range fs.given {
		if g.times > 0 && g.left == 0 || !matches(g.fault) {
			continue
		}
		g.left--
		return &g.fault
	}
	return nil
}

// Wait waits, or until the client is gone.
func Wait(r *http.Request, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.Context().Done():
	}
}

var signature = regexp.MustCompile(`Credential=([^/]*)/[0-9]{8}/([^/]+)/`)

// Signer returns the access key ID and the region of a request's signature.
func Signer(r *http.Request) (caller, region string) {
	if found := signature.FindStringSubmatch(r.Header.Get("Authorization")); found != nil {
		return found[1], found[2]
	}
	return "", ""
}
