package outflow

import (
	"errors"
	"time"
)

// Class says what a failed publish means for the next attempt.
type Class string

// The failure classes. A publisher decides them, since it understands the broker's error; an
// error without a class counts as retryable.
const (
	// ClassPermanent: no later attempt can succeed (bad content, too large, an unknown queue).
	// The message ends dead.
	ClassPermanent Class = "permanent"
	// ClassUnavailable: the destination refuses everything for now (throttled, unreachable,
	// 5xx, access denied). Retried without limit.
	ClassUnavailable Class = "unavailable"
	// ClassRetryable: this attempt failed, which says nothing about others. Retried without
	// limit.
	ClassRetryable Class = "retryable"
)

// ErrNotAttempted marks a publish that sent nothing: too little time was left for the call, or
// its caller left before it was made. It is retryable.
var ErrNotAttempted = errors.New("not attempted: nothing was sent")

// ErrNoDestination marks a publish whose destination does not exist. By itself it is permanent. The
// message waits for the destination before it ends dead: DefaultMissingGrace, unless a setting says
// otherwise. Where messages have reached the destination before, they wait without an end.
var ErrNoDestination = errors.New("the destination does not exist")

// ErrNoPublisher marks a publish to a scheme that this process has no publisher for. By itself it is
// permanent. The message waits like one of ErrNoDestination, unless another process publishes to
// the scheme.
var ErrNoPublisher = errors.New("no publisher for the scheme")

// DefaultMissingGrace is how long messages wait for a destination that does not exist, or for a
// process that publishes to their scheme. Deployments roll out in minutes, and their order may be
// wrong.
const DefaultMissingGrace = 10 * time.Minute

// Failure is a publish error with its class.
type Failure struct {
	Class Class
	// RetryAfter is how long the destination asked to be left alone; zero where it named no
	// time. More than an hour counts as an hour.
	RetryAfter time.Duration
	// Answered says that the destination itself answered: it is reachable, and its answer is
	// about this message.
	Answered bool
	// CutShort says that the call ended after FastPathCallTime, while the publisher waited for
	// the answer to a request that the destination may have. The publisher's own timeout is
	// longer. Such a destination counts as slow, not as failing: its messages leave the fast
	// path, and the next call has the whole timeout. A connection that was not made in that
	// time is no such call.
	CutShort bool
	Err      error
}

func (f *Failure) Error() string { return f.Err.Error() }

// Unwrap returns the classified error.
func (f *Failure) Unwrap() error { return f.Err }

// Permanent classifies err as permanent; nil stays nil.
func Permanent(err error) error { return classify(ClassPermanent, err) }

// Unavailable classifies err as unavailable; nil stays nil.
func Unavailable(err error) error { return classify(ClassUnavailable, err) }

// Retryable classifies err as retryable; nil stays nil.
func Retryable(err error) error { return classify(ClassRetryable, err) }

func classify(c Class, err error) error {
	if err == nil {
		return nil
	}
	return &Failure{Class: c, Err: err}
}

// ClassOf returns the class of err: the outermost Failure's, so that a wrapping Failure changes
// it, or ClassRetryable where err has none.
func ClassOf(err error) Class {
	var f *Failure
	if errors.As(err, &f) {
		return f.Class
	}
	return ClassRetryable
}

// IsPermanent reports whether err is classified as permanent.
func IsPermanent(err error) bool { return err != nil && ClassOf(err) == ClassPermanent }
