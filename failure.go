package outflow

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Class says what a failed publish means for the next attempt.
type Class string

// The failure classes. They are decided where the broker's error is
// understood; an error without a class counts as retryable.
const (
	// ClassPermanent: no later attempt can succeed (bad content, too large, an
	// unknown queue). The message ends dead.
	ClassPermanent Class = "permanent"
	// ClassUnavailable: the destination refuses everything for now (throttled,
	// unreachable, 5xx, access denied). Retried without limit.
	ClassUnavailable Class = "unavailable"
	// ClassRetryable: this attempt failed, nothing is known of the others.
	// Retried without limit.
	ClassRetryable Class = "retryable"
)

// ErrNotAttempted marks a publish that sent nothing: too little time was left
// for the call, or its caller was gone before it was made. It is retryable.
var ErrNotAttempted = errors.New("not attempted: nothing was sent")

// ErrNoDestination marks a publish whose destination does not exist. By itself it
// is permanent; where messages have reached the destination before, it is taken
// to come back.
var ErrNoDestination = errors.New("the destination does not exist")

// ErrNotFound says that no row has this message ID.
var ErrNotFound = errors.New("message not found")

// Failure is a publish error with its class.
type Failure struct {
	Class Class
	// RetryAfter is how long the destination asked to be left alone; zero
	// where it named no time. More than an hour counts as an hour.
	RetryAfter time.Duration
	// Answered says that the destination itself answered: it is there, and whatever
	// it said was about this message.
	Answered bool
	// CutShort says that the call ended after FastPathCallTime, while the publisher waited for
	// the answer to a request that the destination may have. The publisher's own timeout
	// is longer. Such a destination counts as slow, not as failing: its messages leave
	// the fast path, and the next call has the whole timeout. A connection that was not
	// made in that time is no such call.
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

// ClassOf returns the class of err: the outermost Failure's, so that wrapping
// one in another class changes it, or ClassRetryable where err has none.
func ClassOf(err error) Class {
	var f *Failure
	if errors.As(err, &f) {
		return f.Class
	}
	return ClassRetryable
}

// IsPermanent reports whether err is classified as permanent.
func IsPermanent(err error) bool { return err != nil && ClassOf(err) == ClassPermanent }

// InvalidMessageError says which message of a call was refused, and why.
// Nothing of the call was written.
type InvalidMessageError struct {
	// Index is the message's place in the call, from 0.
	Index int
	// Field is the message's field as the SQL function names it, such as
	// "destination" or "expires_at".
	Field string
	// Wants says what the field accepts and what was given.
	Wants string
}

func (e *InvalidMessageError) Error() string {
	return fmt.Sprintf("message %d: %s: %s", e.Index, e.Field, e.Wants)
}

// DuplicateIDError names the message IDs that exist already. Nothing of the
// call was written, and the caller's transaction can go on.
type DuplicateIDError struct {
	IDs []uuid.UUID
}

func (e *DuplicateIDError) Error() string {
	ids := make([]string, 0, len(e.IDs))
	for _, id := range e.IDs {
		ids = append(ids, id.String())
	}
	return fmt.Sprintf("message id: enqueued before, or twice in this call: %s", strings.Join(ids, ", "))
}
