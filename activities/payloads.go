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

// maxPayloadBytes bounds the large payloads that the attempts of a process hold at once: a thousand
// activity slots with 16 MiB each would take all of a machine's memory. A starter's claims have a
// bound of their own (scanner.Options.BytesInFlight).
const maxPayloadBytes = 64 << 20

var errNoRoom = errors.New("waiting for other large payloads to be sent")

// payloads is the room for large payloads in memory. A target has at most half of the room that the
// others leave, or room for one payload: a slow target takes no room from a healthy one.
type payloads struct {
	mu    sync.Mutex
	held  int
	of    map[string]int // held, by target
	freed chan struct{}  // closed at a release
}

func newPayloads() *payloads {
	return &payloads{of: make(map[string]int), freed: make(chan struct{})}
}

// acquire waits until ctx ends for room for n bytes, maxPayloadBytes at most.
func (p *payloads) acquire(ctx context.Context, target string, n int) error {
	for {
		p.mu.Lock()
		own := p.of[target]
		fits := p.held+n <= maxPayloadBytes && (own == 0 || own+n <= (maxPayloadBytes-p.held+own)/2)
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

func (p *payloads) release(target string, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held -= n
	if p.of[target] -= n; p.of[target] == 0 {
		delete(p.of, target)
	}
	close(p.freed)
	p.freed = make(chan struct{})
}

// withPayload runs send with the record's payload. A large payload is loaded first, which takes at
// most timing.PayloadRoom and timing.PayloadLoad. send does not run where the payload can't be
// loaded, or too late for the broker's call.
func (a *Activities) withPayload(
	ctx context.Context, record outbox.Record, send func(outbox.Record) error,
) (loadErr, err error) {
	if record.MissingBytes == 0 {
		return nil, send(record)
	}
	target, n := outbox.TargetOf(record.Destination), min(record.MissingBytes, maxPayloadBytes)
	forRoom, cancel := context.WithTimeout(ctx, timing.PayloadRoom)
	defer cancel()
	if err := a.payloads.acquire(forRoom, target, n); err != nil {
		return err, nil
	}
	defer a.payloads.release(target, n)
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
