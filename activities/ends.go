package activities

import (
	"sync"
	"time"

	"go.temporal.io/sdk/log"

	"github.com/outflowhq/outflow"
)

const (
	// endsLogged is how many ends of a kind are logged one by one within endsWithin. A deleted
	// queue can end a hundred thousand messages in a minute.
	endsLogged = 10
	endsWithin = time.Second
)

// endLog logs messages that ended dead or expired. A dead message is a warning: it waits for an
// operator. An expired one is what its producer asked for. An endLog is safe for concurrent use.
type endLog struct{ dead, expired burst }

// ended logs the end of a message that was given up.
func (l *endLog) ended(to log.Logger, o outflow.Outcome) {
	fields := []any{
		"message", o.ID, "generation", o.Generation, "destination", outflow.DisplayDestination(o.Destination),
		"type", o.Type, "reason", o.LastError,
	}
	switch o.State {
	case outflow.Dead:
		l.dead.log(func() { to.Warn("a message ended dead", fields...) },
			func(more int) {
				to.Warn("more messages ended dead than the log names", "more", more, "within", endsWithin)
			})
	case outflow.Expired:
		l.expired.log(func() { to.Info("a message expired", fields...) },
			func(more int) {
				to.Info("more messages expired than the log names", "more", more, "within", endsWithin)
			})
	}
}

// burst lets endsLogged lines pass within endsWithin, and counts the others.
type burst struct {
	mu              sync.Mutex
	began           time.Time
	logged, omitted int
}

// log writes a line now, or counts it for the line that sums up when the time is over.
func (b *burst) log(one func(), more func(int)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.omitted == 0 && time.Since(b.began) >= endsWithin {
		b.began, b.logged = time.Now(), 0
	}
	if b.logged < endsLogged {
		b.logged++
		one()
		return
	}
	if b.omitted++; b.omitted == 1 {
		time.AfterFunc(time.Until(b.began.Add(endsWithin)), func() { b.sumUp(more) })
	}
}

// sumUp logs how many lines were left out, and starts over.
func (b *burst) sumUp(more func(int)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	more(b.omitted)
	b.began, b.logged, b.omitted = time.Now(), 0, 0
}
