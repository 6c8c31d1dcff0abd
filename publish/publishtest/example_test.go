package publishtest_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/publishtest"
)

const maxBytes = 256 << 10

// broker keeps its topics in memory. It is its own publisher and its own harness.
type broker struct {
	mu     sync.Mutex
	topics map[string][]outflow.Message // by destination
	faults map[string]publishtest.Fault
	sent   int
}

func (*broker) Scheme() string { return outflow.SchemeSNS }

func (b *broker) Publish(ctx context.Context, m outflow.Message) (string, error) {
	d, err := outflow.ParseDestination(m.Destination)
	switch {
	case err != nil:
		return "", outflow.Permanent(err)
	case d.Scheme != b.Scheme():
		return "", outflow.Permanent(fmt.Errorf("%s is no topic", d))
	case m.Bytes() > maxBytes:
		return "", outflow.Permanent(fmt.Errorf("%s: %d bytes are too large", d, m.Bytes()))
	case ctx.Err() != nil:
		return "", fmt.Errorf("%s: %w: %w", d, outflow.ErrNotAttempted, ctx.Err())
	}
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < outflow.FastPathCallTime {
		return "", fmt.Errorf("%s: %w: too little time", d, outflow.ErrNotAttempted)
	}
	if m.ContentType == "" {
		m.ContentType = "application/json"
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.topics[d.String()]; !ok {
		return "", outflow.Permanent(fmt.Errorf("%s: %w", d, outflow.ErrNoDestination))
	}
	fault := b.faults[d.String()]
	if fault == "" || fault == publishtest.AnswerLost {
		m.Destination = "" // it does not travel with the message
		b.topics[d.String()] = append(b.topics[d.String()], m)
	}
	if fault != "" {
		return "", outflow.Unavailable(fmt.Errorf("%s: %w", d, errors.New(string(fault))))
	}
	b.sent++
	return fmt.Sprint("broker-", b.sent), nil
}

func (b *broker) Publisher(*testing.T) publish.Publisher { return b }

func (b *broker) Destination(*testing.T) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	destination := fmt.Sprintf("sns://topic-%d", len(b.topics))
	b.topics[destination] = nil
	return destination
}

func (*broker) MissingDestination(*testing.T) string { return "sns://missing" }

func (*broker) MaxBytes() int { return maxBytes }

func (b *broker) Receive(_ *testing.T, destination string, _ int) []outflow.Message {
	b.mu.Lock()
	defer b.mu.Unlock()
	received := b.topics[destination]
	b.topics[destination] = nil
	return received
}

func (b *broker) Break(_ *testing.T, destination string, f publishtest.Fault) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults[destination] = f
}

func (b *broker) Restore(t *testing.T, destination string) { b.Break(t, destination, "") }

func (*broker) Skip(name string) (reason string, skip bool) {
	switch name {
	case publishtest.CaseSlow:
		return "this broker is never slow", true
	case publishtest.CaseCancel:
		return "no request of this broker takes time", true
	case publishtest.CaseClose:
		return "this publisher needs no closing", true
	}
	return "", false
}

// A test of your publisher's package calls Run with a Harness: here TestConformance's body.
// A broker over a network is its own fake or an emulator, such as fakesqs.
func ExampleRun() {
	testConformance := func(t *testing.T) {
		publishtest.Run(t, &broker{topics: map[string][]outflow.Message{}, faults: map[string]publishtest.Fault{}})
	}
	_ = testConformance
}
