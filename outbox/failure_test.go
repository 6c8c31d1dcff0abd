package outbox_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
)

func TestWasCutShort(t *testing.T) {
	t.Parallel()
	cut := &outflow.Failure{Class: outflow.ClassUnavailable, CutShort: true, Err: errors.New("no answer in time")}
	require.True(t, outbox.WasCutShort(cut))
	require.True(t, outbox.WasCutShort(fmt.Errorf("sending: %w", outflow.Retryable(cut))), "whatever is around it")
	require.False(t, outbox.WasCutShort(outflow.Unavailable(errors.New("no answer in time"))))
	require.False(t, outbox.WasCutShort(nil))
}

func TestRetryAfterIsBounded(t *testing.T) {
	t.Parallel()
	for given, want := range map[time.Duration]time.Duration{
		-time.Second: 0, 0: 0, time.Minute: time.Minute, 25 * time.Hour: outbox.MaxRetryAfter,
	} {
		err := &outflow.Failure{Class: outflow.ClassUnavailable, RetryAfter: given, Err: errors.New("busy")}
		require.Equal(t, want, outbox.RetryAfter(fmt.Errorf("sending: %w", err)), given)
	}
	require.Zero(t, outbox.RetryAfter(errors.New("no class")))
}
