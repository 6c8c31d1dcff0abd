package outflow_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
)

func TestClasses(t *testing.T) {
	t.Parallel()
	cause := errors.New("the broker said no")
	for class, classify := range map[outflow.Class]func(error) error{
		outflow.ClassPermanent: outflow.Permanent, outflow.ClassUnavailable: outflow.Unavailable,
		outflow.ClassRetryable: outflow.Retryable,
	} {
		err := classify(cause)
		require.Equal(t, class, outflow.ClassOf(err))
		require.Equal(t, class, outflow.ClassOf(fmt.Errorf("sending: %w", err)))
		require.ErrorIs(t, err, cause)
		require.EqualError(t, err, cause.Error())
		require.Equal(t, class == outflow.ClassPermanent, outflow.IsPermanent(err))
		require.NoError(t, classify(nil))
	}
	require.Equal(t, outflow.ClassRetryable, outflow.ClassOf(cause))
	require.Equal(t, outflow.ClassRetryable, outflow.ClassOf(outflow.ErrNotAttempted))
	require.False(t, outflow.IsPermanent(nil))
	require.False(t, outflow.IsPermanent(cause))
	require.Equal(t, outflow.ClassUnavailable, outflow.ClassOf(outflow.Unavailable(outflow.Permanent(cause))),
		"the outermost decides")
}

func TestErrorTexts(t *testing.T) {
	t.Parallel()
	require.EqualError(t, &outflow.InvalidMessageError{Index: 2, Field: "type", Wants: "wants a type (got nothing)"},
		"message 2: type: wants a type (got nothing)")
	a, b := uuid.New(), uuid.New()
	require.EqualError(t, &outflow.DuplicateIDError{IDs: []uuid.UUID{a, b}},
		"message id: enqueued before, or twice in this call: "+a.String()+", "+b.String())
}
