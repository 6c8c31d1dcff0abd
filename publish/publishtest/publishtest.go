// Package publishtest is the conformance suite that every publisher passes.
//
// The invariant: the suite tests each promise of publish.Publisher, once for all brokers, on a
// real client against a broker or a faithful fake. A promise of one broker alone is tested beside
// its publisher. A case that a broker can't have is skipped with a reason.
//
//	func TestConformance(t *testing.T) { publishtest.Run(t, harness{}) }
package publishtest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/text"
	"github.com/outflowhq/outflow/publish"
)

// Harness is a broker under test. Its methods fail the test themselves where they can't do what
// they say.
type Harness interface {
	// Publisher makes a publisher. Its call to the broker, retries included, must have a timeout
	// of 2 to 5 seconds, or the publisher's default.
	Publisher(t *testing.T) publish.Publisher
	// Destination makes a new, empty destination and returns it.
	Destination(t *testing.T) string
	// MissingDestination returns a valid destination that does not exist.
	MissingDestination(t *testing.T) string
	// Receive takes n messages, decoded, out of the destination, and waits for them for a few
	// seconds at most. It returns those that were there by then: fewer, or more where a later
	// look finds more.
	Receive(t *testing.T, destination string, n int) []outflow.Message
	// MaxBytes is the largest message that the broker takes, in bytes.
	MaxBytes() int
	// Break makes a destination fail until Restore.
	Break(t *testing.T, destination string, f Fault)
	// Restore ends every fault of a destination.
	Restore(t *testing.T, destination string)
	// Skip says whether the broker can't have a case of Cases, and why. The reason is printed.
	Skip(name string) (reason string, skip bool)
}

// Fault is a way in which a destination fails.
type Fault string

// The faults that a Harness makes.
const (
	// Throttled: the broker refuses everything, since there is too much.
	Throttled Fault = "throttled"
	// Denied: the broker does not let the sender publish here.
	Denied Fault = "denied"
	// Broken: the broker answers with an error of its own (5xx).
	Broken Fault = "broken"
	// AnswerLost: the broker accepts, and the connection dies before it says so.
	AnswerLost Fault = "answer lost"
	// Slow: the broker takes SlowBy for each request.
	Slow Fault = "slow"
	// Unreachable: the broker refuses connections, and the open ones die. It may concern every
	// destination. A Gate makes it.
	Unreachable Fault = "unreachable"
)

// SlowBy is how long the broker takes under Slow.
const SlowBy = time.Second

// Cases are the cases of the suite by name. A harness may skip those that have a constant, where
// its broker can't have them.
var Cases = map[string]func(t *testing.T, h Harness){
	"payloads arrive byte for byte":         payloadsArrive,
	CaseTypes:                               typesArrive,
	CaseHeaders:                             headersArrive,
	CaseHeaderLimits:                        headersAtTheLimit,
	CaseAgain:                               publishedAgain,
	"concurrent publishes arrive once each": concurrentPublishes,

	"a destination that can't be parsed is permanent": unparsableDestination,
	"a destination of another scheme is permanent":    otherScheme,
	CaseMissingDestination:                            missingDestination,
	CaseTooLarge:                                      tooLarge,
	CaseTooLargeNeighbour:                             tooLargeAmongOthers,

	"a caller without time sends nothing": withoutTime,
	CaseCancel:                            cancelUnderWay,
	CaseThrottled:                         func(t *testing.T, h Harness) { unavailable(t, h, Throttled) },
	CaseDenied:                            func(t *testing.T, h Harness) { unavailable(t, h, Denied) },
	CaseBroken:                            func(t *testing.T, h Harness) { unavailable(t, h, Broken) },
	CaseAnswerLost:                        func(t *testing.T, h Harness) { unavailable(t, h, AnswerLost) },
	CaseUnreachable:                       func(t *testing.T, h Harness) { unavailable(t, h, Unreachable) },
	CaseSlow:                              slowDestination,
	CaseClose:                             closeUnderWay,

	CaseOrder:      orderOfAKey,
	CaseBatch:      batchHasResults,
	CaseBatchOrder: orderInABatch,
}

// The names of the cases that some brokers skip.
const (
	CaseHeaders            = "headers arrive under their own names"
	CaseHeaderLimits       = "headers at the enqueue's limits arrive or are refused"
	CaseTypes              = "type and content type arrive"
	CaseAgain              = "a message may be published again"
	CaseMissingDestination = "a missing destination is permanent"
	CaseTooLarge           = "a message that is too large is permanent"
	CaseTooLargeNeighbour  = "a message that is too large hurts no neighbour"
	CaseCancel             = "a caller who leaves during a request gets its answer"
	CaseThrottled          = "a throttled destination is unavailable"
	CaseDenied             = "a denied destination is unavailable"
	CaseBroken             = "a broken destination is unavailable"
	CaseAnswerLost         = "a lost answer is not sent again"
	CaseUnreachable        = "an unreachable broker is unavailable"
	CaseSlow               = "a slow destination delays no other"
	CaseClose              = "closing while publishes are under way loses nothing that was acknowledged"
	CaseOrder              = "messages of one ordering key keep their order"
	CaseBatch              = "each message of a batch has a result of its own"
	CaseBatchOrder         = "messages of one ordering key keep their order in a batch"
)

// Run runs the suite, in the order of the names. A case that is skipped prints its reason.
func Run(t *testing.T, h Harness) {
	for _, name := range slices.Sorted(maps.Keys(Cases)) {
		t.Run(name, func(t *testing.T) {
			if reason, skip := h.Skip(name); skip {
				t.Skip(reason)
			}
			Cases[name](t, h)
		})
	}
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

// arrives publishes m and returns the message that arrived.
func arrives(t *testing.T, h Harness, p publish.Publisher, m outflow.Message) outflow.Message {
	t.Helper()
	_, err := p.Publish(t.Context(), m)
	require.NoError(t, err)
	got := h.Receive(t, m.Destination, 1)
	require.Len(t, got, 1)
	return got[0]
}

// carried is the part of m that travels to the consumer.
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
