package activities

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/outbox"
)

// payloadBytes bounds the large payloads that the attempts of a process hold at once:
// a thousand activity slots with 16 MiB each would take all of a machine's memory. What
// a starter claims has a bound of its own (scanner.Options.BytesInFlight).
const payloadBytes = 64 << 20

var errNoRoom = errors.New("waiting for other large payloads to be sent")

// payloads are the large payloads in hand. A target holds half of what the others leave
// at most, or one payload: a slow one keeps no room from a healthy one.
type payloads struct {
	mu    sync.Mutex
	held  int
	of    map[string]int // held, by target
	freed chan struct{}  // closed when some are let go
}

func newPayloads() *payloads {
	return &payloads{of: make(map[string]int), freed: make(chan struct{})}
}

// take waits for room for n bytes, payloadBytes at most, until ctx ends.
func (p *payloads) take(ctx context.Context, target string, n int) error {
	for {
		p.mu.Lock()
		own := p.of[target]
		fits := p.held+n <= payloadBytes && (own == 0 || own+n <= (payloadBytes-p.held+own)/2)
		if fits {
			p.held += n
			p.of[target] += n
		}
		freed := p.freed
		p.mu.Unlock()
		if fits {
			return nil
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", errNoRoom, ctx.Err())
		}
	}
}

func (p *payloads) letGo(target string, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held -= n
	if p.of[target] -= n; p.of[target] == 0 {
		delete(p.of, target)
	}
	close(p.freed)
	p.freed = make(chan struct{})
}

// withPayload runs send with the record's payload, which it loads where the record owes
// it. That takes PayloadRoom and PayloadLoad at most: the broker's call has its time after
// that. send is not run where the payload can't be had, or came too late for that call.
func (a *Activities) withPayload(ctx context.Context, record outbox.Record, send func(outbox.Record) error) (loadErr, err error) {
	if record.MissingBytes == 0 {
		return nil, send(record)
	}
	target, n := outbox.TargetOf(record.Destination), min(record.MissingBytes, payloadBytes)
	forRoom, cancel := context.WithTimeout(ctx, timing.PayloadRoom)
	defer cancel()
	if err := a.payloads.take(forRoom, target, n); err != nil {
		return err, nil
	}
	defer a.payloads.letGo(target, n)
	inTime, cancel := context.WithTimeout(ctx, timing.PayloadLoad)
	defer cancel()
	if record.Payload, loadErr = a.store.LoadPayload(inTime, record); loadErr != nil {
		return loadErr, nil
	}
	if timeLeft(ctx) < timing.FastPathCall {
		return outflow.ErrNotAttempted, nil
	}
	return nil, send(record)
}
