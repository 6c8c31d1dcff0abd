package publish

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"github.com/outflowhq/outflow"
)

// mostWatched bounds the destinations that are remembered as failing.
const mostWatched = 1000

// Watch passes messages on to next, and says in the log when a destination
// begins to fail and when it works again: once each, however many messages are
// retried meanwhile. A permanent failure is the message's own and is not told
// here, but for a destination that is not there; its row and its run say it. Only
// of a panic it tells more than they may.
func Watch(next *Router, log *slog.Logger) *Watched {
	return &Watched{next: next, log: log, failing: map[string]bool{}}
}

// Watched is what Watch returns. It is safe for concurrent use.
type Watched struct {
	next *Router
	log  *slog.Logger

	mu      sync.Mutex
	failing map[string]bool
}

// Publish publishes m.
func (w *Watched) Publish(ctx context.Context, m outflow.Message) (string, error) {
	id, err := w.next.Publish(ctx, m)
	var panicked *PanicError
	switch {
	case err == nil:
		if w.turned(m.Destination, false) {
			w.log.Info("publishing works again", "destination", outflow.DisplayDestination(m.Destination))
		}
	case errors.As(err, &panicked):
		w.log.Error("publishing panicked", "message_id", m.ID, "destination", outflow.DisplayDestination(m.Destination), "panic", panicked.Value, "stack", string(panicked.Stack))
	case errors.Is(err, outflow.ErrNotAttempted): // it says nothing of the destination
	case !outflow.IsPermanent(err) || errors.Is(err, outflow.ErrNoDestination):
		if w.turned(m.Destination, true) {
			w.log.Warn("publishing fails", "destination", outflow.DisplayDestination(m.Destination), "error", err)
		}
	}
	return id, err
}

// turned notes how a destination does and reports whether that is news.
func (w *Watched) turned(destination string, failing bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failing[destination] == failing {
		return false
	}
	if !failing {
		delete(w.failing, destination)
		return true
	}
	if len(w.failing) >= mostWatched {
		return false
	}
	w.failing[destination] = true
	return true
}
