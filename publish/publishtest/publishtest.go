// Package publishtest is the conformance suite that every publisher passes.
//
// The invariant: what package publish promises at Publisher is tested here, once
// for all brokers, on a real client against a broker or a faithful fake; what
// only one broker has is tested beside its publisher.
package publishtest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/text"
	"github.com/outflowhq/outflow/publish"
)

// Fault is a way in which a destination fails until it is healed.
type Fault string

// The faults that a Harness can make.
const (
	// Throttled: the broker refuses everything, since there is too much.
	Throttled Fault = "throttled"
	// Denied: the broker does not let the sender publish here.
	Denied Fault = "denied"
	// Broken: the broker answers with an error of its own (5xx).
	Broken Fault = "broken"
	// AnswerLost: the broker accepts, and the connection dies before it says so.
	AnswerLost Fault = "answer lost"
	// Slow: the broker takes a second for each request.
	Slow Fault = "slow"
)

// SlowBy is how long the broker takes under Slow.
const SlowBy = time.Second

// Harness describes a broker under test. Its methods fail the test themselves
// where they can't do what they say.
type Harness interface {
	// Publisher returns the one under test. Its broker call, retries included,
	// must have a deadline of 2 to 5 seconds.
	Publisher(t *testing.T) publish.Publisher
	// Destination makes a new, empty destination and returns it.
	Destination(t *testing.T) string
	// Missing returns a valid destination that does not exist, or "" where the
	// broker has no such thing.
	Missing(t *testing.T) string
	// Receive takes n messages, decoded, out of the destination, waiting for
	// them for a few seconds at most. It returns what was there by then: fewer,
	// or more where a later look finds more.
	Receive(t *testing.T, destination string, n int) []outflow.Message
	// MaxBytes is the largest message that the broker takes, in bytes.
	MaxBytes() int
	// Inject makes a destination fail until Heal. ok is false where the broker
	// knows no such fault, which skips the test.
	Inject(t *testing.T, destination string, f Fault) (ok bool)
	// Heal ends every fault of a destination.
	Heal(t *testing.T, destination string)
}

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	t.Run("Content", func(t *testing.T) { testContent(t, h) })
	t.Run("Headers", func(t *testing.T) { testHeaders(t, h) })
	t.Run("Concurrency", func(t *testing.T) { testConcurrency(t, h) })
	t.Run("Refusals", func(t *testing.T) { testRefusals(t, h) })
	t.Run("Leaving", func(t *testing.T) { testLeaving(t, h) })
	t.Run("Faults", func(t *testing.T) { testFaults(t, h) })
	t.Run("Isolation", func(t *testing.T) { testIsolation(t, h) })
}

// marker is in every payload that an error must not quote.
const marker = "a-secret-of-the-payload"

// message returns a small message to the destination.
func message(destination string) outflow.Message {
	id := uuid.Must(uuid.NewV7())
	return outflow.Message{
		ID: id, Destination: destination, Type: "user-registered", ContentType: "application/json",
		Payload: fmt.Appendf(nil, `{"id":%q,"note":%q}`, id, marker),
	}
}

// arrives publishes m and returns what arrived.
func arrives(t *testing.T, h Harness, p publish.Publisher, m outflow.Message) outflow.Message {
	t.Helper()
	_, err := p.Publish(t.Context(), m)
	require.NoError(t, err)
	got := h.Receive(t, m.Destination, 1)
	require.Len(t, got, 1)
	return got[0]
}

// carried is what of m travels to the consumer.
func carried(m outflow.Message) outflow.Message {
	if m.ContentType == "" {
		m.ContentType = "application/json"
	}
	m.Destination = ""
	return m
}

func failsAs(t *testing.T, want outflow.Class, err error) {
	t.Helper()
	require.Error(t, err)
	require.Equal(t, want, outflow.ClassOf(err), "%v", err)
	require.NotContains(t, err.Error(), marker, "an error quotes the payload")
	require.Less(t, len(err.Error()), text.MaxError)
	require.False(t, strings.ContainsRune(err.Error(), 0))
}
