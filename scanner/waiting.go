package scanner

import (
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
)

const (
	// minuteLogInterval lies between two lines of a minuteLog.
	minuteLogInterval = time.Minute
	// maxLogged bounds the destinations that are remembered between two lines, maxLoggedReasons
	// the reasons of a line: each reason names its destination.
	maxLogged        = 10_000
	maxLoggedReasons = 5
)

// noteWaiting logs messages that a claim left to wait, or ended: one line a minute for each cause.
func (s *Scanner) noteWaiting(claimed outbox.Claimed) {
	for destination, err := range claimed.Refused {
		s.refused.add(destination, err.Error())
	}
	s.refused.write(s.opts.Logger, "messages wait as rows: this process can't send to their destinations")
	for destination, reason := range claimed.Missing {
		s.missing.add(destination, reason)
	}
	s.missing.write(s.opts.Logger,
		"messages wait as rows: their destinations do not exist, or nobody publishes to their scheme",
		"end_dead_after", s.opts.MissingGrace)
	for _, o := range claimed.Ended {
		s.record.Ended(o)
		if o.State == outflow.Dead {
			s.givenUp.messages++
			s.givenUp.add(o.Destination, o.LastError)
		}
	}
	s.givenUp.write(s.opts.Logger,
		"messages ended dead: their destinations did not exist, or nobody published to their scheme, for too long",
		"messages", s.givenUp.messages)
}

// minuteLog sums up destinations and reasons for one line a minute: ten thousand of them are one
// line.
type minuteLog struct {
	reasons      map[string]bool
	destinations map[string]bool
	messages     int
	next         time.Time
}

// add notes a destination, and why it is noted.
func (l *minuteLog) add(destination, reason string) {
	if l.destinations == nil {
		l.destinations, l.reasons = map[string]bool{}, map[string]bool{}
	}
	if len(l.destinations) < maxLogged {
		l.destinations[destination] = true
	}
	if len(l.reasons) < maxLoggedReasons {
		l.reasons[reason] = true
	}
}

// write logs what was noted, when it is time to.
func (l *minuteLog) write(log *slog.Logger, message string, more ...any) {
	if len(l.destinations) == 0 || time.Now().Before(l.next) {
		return
	}
	log.Warn(message, append([]any{
		"destinations", len(l.destinations), "reasons", slices.Sorted(maps.Keys(l.reasons)),
	}, more...)...)
	*l = minuteLog{next: time.Now().Add(minuteLogInterval)}
}
