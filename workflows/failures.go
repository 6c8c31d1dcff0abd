package workflows

import (
	"errors"
	"time"

	"go.temporal.io/sdk/temporal"

	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/internal/text"
	"github.com/outflowhq/outflow/internal/timing"
)

// isFinalFailure reports whether no later attempt can succeed after an activity's error.
func isFinalFailure(err error) bool {
	kind := errorType(err)
	return kind == activities.ErrTypePermanent || kind == activities.ErrTypeNotFound
}

// nothingSent reports whether an activity failed before it sent anything.
func nothingSent(err error) bool {
	kind := errorType(err)
	return kind == activities.ErrTypeNotAttempted || kind == activities.ErrTypeAnotherOutbox
}

// errorType returns the type of the application error in err, or "".
func errorType(err error) string {
	var application *temporal.ApplicationError
	if errors.As(err, &application) {
		return application.Type()
	}
	return ""
}

// waitAfter returns the wait after a failed attempt. It is never zero: the broker may have the
// message, and then it is not sent again at once.
func waitAfter(err error) time.Duration {
	var application *temporal.ApplicationError
	if errors.As(err, &application) && application.NextRetryDelay() > 0 {
		return application.NextRetryDelay()
	}
	return timing.PublishBackoff.First
}

// reason returns the text of the publisher's error, without the SDK's around it.
func reason(err error) string {
	var application *temporal.ApplicationError
	if errors.As(err, &application) {
		return application.Message()
	}
	return text.Clean(err.Error())
}
