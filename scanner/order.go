package scanner

import (
	"context"
	"time"
)

const (
	// owedInterval lies between two looks for releases that are owed, while there are any: a producer
	// that held a key's lock may commit at any moment.
	owedInterval = 50 * time.Millisecond
	// owedLook lies between two looks otherwise. A claim says when there are some, but a scanner
	// whose slots are all taken makes no claim.
	owedLook = 5 * time.Second
	// owedTimeout bounds one look.
	owedTimeout = 5 * time.Second
)

// releaseOwed releases, in the background, the messages of ordering keys that nobody could release in
// time. It goes on until none is left.
func (s *Scanner) releaseOwed(ctx context.Context, owed bool) {
	if owed && !s.owed.busy.Load() {
		s.owed.began = time.Time{}
	}
	if !s.owed.begin(owedLook) {
		return
	}
	s.background.Go(func() {
		defer s.owed.done()
		for left := true; left && ctx.Err() == nil; {
			var err error
			inTime, cancel := context.WithTimeout(ctx, owedTimeout)
			left, err = s.store.ReleaseOwed(inTime)
			cancel()
			if err != nil && ctx.Err() == nil {
				s.opts.Logger.Warn("releasing messages that waited for another of their ordering key", "error", err)
				return
			}
			if left {
				sleep(ctx, owedInterval)
			}
		}
	})
}
