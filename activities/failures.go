package activities

import (
	"errors"
	"time"

	"go.temporal.io/sdk/temporal"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/text"
	"github.com/outflowhq/outflow/outbox"
)

// The types of the application errors that the activities return. They stand in histories.
const (
	ErrTypePermanent   = "Permanent"
	ErrTypeUnavailable = "Unavailable"
	ErrTypeRetryable   = "Retryable"
	// ErrTypeNotAttempted says that nothing was sent, and no attempt is counted.
	ErrTypeNotAttempted = "NotAttempted"
	// ErrTypeAnotherOutbox says the same: the worker belongs to another outbox.
	ErrTypeAnotherOutbox = "AnotherOutbox"
	// ErrTypeNotFound says that the row was deleted.
	ErrTypeNotFound = "NotFound"
)

// translate turns a classified error into Temporal's. Nothing outside this file does. The cleaned
// text goes along, and none of the error's structure.
func translate(err error, attempt int32) error {
	if errors.Is(err, errAnotherOutbox) {
		return translateAfter(err, foreignDelay(attempt))
	}
	return translateAfter(err, retryDelay(attempt, outbox.RetryAfter(err)))
}

// translateAfter is translate with the given wait.
func translateAfter(err error, delay time.Duration) error {
	kind := typeOf(err)
	options := temporal.ApplicationErrorOptions{Category: temporal.ApplicationErrorCategoryBenign}
	if kind == ErrTypePermanent || kind == ErrTypeNotFound {
		options.NonRetryable = true
	} else {
		options.NextRetryDelay = delay
	}
	return temporal.NewApplicationErrorWithOptions(text.Clean(err.Error()), kind, options)
}

func typeOf(err error) string {
	switch {
	case errors.Is(err, outflow.ErrNotFound):
		return ErrTypeNotFound
	case outflow.IsPermanent(err):
		return ErrTypePermanent
	case errors.Is(err, errAnotherOutbox):
		return ErrTypeAnotherOutbox
	case errors.Is(err, outflow.ErrNotAttempted):
		return ErrTypeNotAttempted
	case outflow.ClassOf(err) == outflow.ClassUnavailable:
		return ErrTypeUnavailable
	}
	return ErrTypeRetryable
}
