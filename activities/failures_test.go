package activities

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/text"
)

func TestTranslate(t *testing.T) {
	cause := errors.New("the broker's words")
	asked := &outflow.Failure{Class: outflow.ClassUnavailable, RetryAfter: 30 * time.Second, Err: cause}
	for name, c := range map[string]struct {
		err     error
		kind    string
		final   bool
		atLeast time.Duration
		atMost  time.Duration
	}{
		"permanent":          {outflow.Permanent(cause), ErrTypePermanent, true, 0, 0},
		"permanent, wrapped": {fmt.Errorf("sending: %w", outflow.Permanent(cause)), ErrTypePermanent, true, 0, 0},
		"gone":               {fmt.Errorf("loading: %w", outflow.ErrNotFound), ErrTypeNotFound, true, 0, 0},
		"unavailable": {outflow.Unavailable(cause), ErrTypeUnavailable, false, 800 * time.Millisecond,
			1200 * time.Millisecond},
		"unavailable, asked": {fmt.Errorf("sending: %w", asked), ErrTypeUnavailable, false, 24 * time.Second,
			36 * time.Second},
		"retryable": {outflow.Retryable(cause), ErrTypeRetryable, false, 800 * time.Millisecond,
			1200 * time.Millisecond},
		"without a class": {cause, ErrTypeRetryable, false, 800 * time.Millisecond, 1200 * time.Millisecond},
		"cancelled": {context.Canceled, ErrTypeRetryable, false, 800 * time.Millisecond,
			1200 * time.Millisecond},
		"not attempted": {outflow.ErrNotAttempted, ErrTypeNotAttempted, false, 800 * time.Millisecond,
			1200 * time.Millisecond},
		"not attempted, classed": {outflow.Retryable(fmt.Errorf("queueing: %w", outflow.ErrNotAttempted)),
			ErrTypeNotAttempted, false, 800 * time.Millisecond, 1200 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			var got *temporal.ApplicationError
			require.ErrorAs(t, translate(c.err, 1), &got)
			assert.Equal(t, c.kind, got.Type())
			assert.Equal(t, c.err.Error(), got.Message())
			assert.Equal(t, c.final, got.NonRetryable())
			assert.GreaterOrEqual(t, got.NextRetryDelay(), c.atLeast)
			assert.LessOrEqual(t, got.NextRetryDelay(), c.atMost)
			assert.Equal(t, temporal.ApplicationErrorCategoryBenign, got.Category(),
				"a broker's refusal is no error of ours")
			assert.False(t, got.HasDetails())
			assert.NoError(t, errors.Unwrap(got), "the error's own structure stays here")
		})
	}
}

func TestTranslateCleansTheText(t *testing.T) {
	var got *temporal.ApplicationError
	require.ErrorAs(t, translate(errors.New("a\x00b\xff"+strings.Repeat("x", 10_000)), 1), &got)
	assert.True(t, strings.HasPrefix(got.Message(), "a\uFFFDb\uFFFDx"))
	assert.LessOrEqual(t, len(got.Message()), text.MaxError)
}
