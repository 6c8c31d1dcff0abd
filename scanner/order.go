package scanner

import (
	"context"
	"time"
)

const (
	// deferredInterval lies between two looks for deferred releases, while there are any: a producer
	// that held a key's lock may commit at any moment.
	deferredInterval = 50 * time.Millisecond
	// deferredLook lies between two looks otherwise. A claim says when there are some, but a scanner
	// whose slots are all taken makes no claim.
	deferredLook = 5 * time.Second
	// deferredTimeout bounds one look.
	deferredTimeout = 5 * time.Second
)

// releaseDeferred releases, in the background, the messages of ordering keys that nobody could release in
// time. It goes on until none is left.
func (s *Scanner) releaseDeferred(ctx context.Context, deferred bool) {
	if deferred && !s.deferred.busy.Load() {
		s.deferred.began = time.Time{}
	}
	if !s.deferred.begin(deferredLook) {
		return
	}
	s.background.Go(func() {
		defer s.deferred.done()
		for left := true; left && ctx.Err() == nil; {
			var err error
			inTime, cancel := context.WithTimeout(ctx, deferredTimeout)
			left, err = s.store.ReleaseDeferred(inTime)
			cancel()
			if err != nil && ctx.Err() == nil {
				s.opts.Logger.Warn("releasing messages that waited for another of their ordering key", "error", err)
				return
			}
			if left {
				sleep(ctx, deferredInterval)
			}
		}
	})
}
