package activities

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/log"

	"github.com/outflowhq/outflow"
)

const (
	// endsLogged is how many ends of a kind are logged one by one within endsWithin: a
	// queue that somebody deleted can end a hundred thousand messages in a minute.
	endsLogged = 10
	endsWithin = time.Second
)

// LogTo has the messages that end dead or expired logged there; without it the
// worker's own logger has them.
func LogTo(to *slog.Logger) Option {
	return func(a *Activities) { a.ends.to = log.NewStructuredLogger(to) }
}

// endLog says in the log which messages were given up: nobody sees a row that ends
// dead in the night. Dead messages are warnings, since they wait for somebody; expired
// ones are what their producer asked for. It is safe for concurrent use.
type endLog struct {
	to            log.Logger
	dead, expired burst
}

// ended logs the end of a message, if it is one that was given up.
func (l *endLog) ended(ctx context.Context, o outflow.Outcome) {
	to := l.to
	if to == nil {
		to = activity.GetLogger(ctx)
	}
	fields := []any{"message", o.ID, "generation", o.Generation, "destination", outflow.DisplayDestination(o.Destination), "type", o.Type, "reason", o.LastError}
	switch o.State {
	case outflow.Dead:
		l.dead.say(func() { to.Warn("a message ended dead", fields...) },
			func(more int) {
				to.Warn("more messages ended dead than the log names", "more", more, "within", endsWithin)
			})
	case outflow.Expired:
		l.expired.say(func() { to.Info("a message expired", fields...) },
			func(more int) {
				to.Info("more messages expired than the log names", "more", more, "within", endsWithin)
			})
	}
}

// burst lets endsLogged lines pass within endsWithin, and counts the others.
type burst struct {
	mu         sync.Mutex
	began      time.Time
	said, left int
}

// say says a line now, or counts it for a line that comes when the time is over.
func (b *burst) say(one func(), more func(int)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left == 0 && time.Since(b.began) >= endsWithin {
		b.began, b.said = time.Now(), 0
	}
	if b.said < endsLogged {
		b.said++
		one()
		return
	}
	if b.left++; b.left == 1 {
		time.AfterFunc(time.Until(b.began.Add(endsWithin)), func() { b.sum(more) })
	}
}

// sum says how many lines were left out, and begins anew.
func (b *burst) sum(more func(int)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	more(b.left)
	b.began, b.said, b.left = time.Now(), 0, 0
}
