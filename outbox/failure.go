package outbox

import (
	"errors"
	"time"

	"github.com/outflowhq/outflow"
)

// MaxRetryAfter is the longest time for which a destination is left alone because it asked for
// that; a wish for more counts as this.
const MaxRetryAfter = time.Hour

// RetryAfter is the wait that the destination asked for, from 0 to MaxRetryAfter.
func RetryAfter(err error) time.Duration {
	var f *outflow.Failure
	if errors.As(err, &f) {
		return min(max(f.RetryAfter, 0), MaxRetryAfter)
	}
	return 0
}

// WasAnswered reports whether err came from the destination itself: see
// outflow.Failure.Answered.
func WasAnswered(err error) bool {
	return anyFailure(err, func(f *outflow.Failure) bool { return f.Answered })
}

// WasCutShort reports whether err is of a call that ended before its publisher's own timeout:
// see outflow.Failure.CutShort.
func WasCutShort(err error) bool {
	return anyFailure(err, func(f *outflow.Failure) bool { return f.CutShort })
}

// IsMissing reports whether a message of this error waits, for a while, for its destination to exist
// or for its scheme to have a publisher: err is permanent by itself.
func IsMissing(err error) bool {
	return outflow.IsPermanent(err) &&
		(errors.Is(err, outflow.ErrNoDestination) || errors.Is(err, outflow.ErrNoPublisher))
}

// anyFailure reports whether is holds for err's Failure, or for one that it wraps.
func anyFailure(err error, is func(*outflow.Failure) bool) bool {
	for f := new(outflow.Failure); errors.As(err, &f); err = f.Err {
		if is(f) {
			return true
		}
	}
	return false
}
