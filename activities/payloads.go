package activities

import (
	"context"
	"fmt"

	"golang.org/x/sync/semaphore"

	"github.com/outflowhq/outflow"
)

// payloadBytes bounds the large payloads that the attempts of a process hold at once: a
// thousand activity slots with 16 MiB each would take all of a machine's memory. What a
// starter claims has a bound of its own (scanner.Options.BytesInFlight).
const payloadBytes = 64 << 20

// payloads are the large payloads in hand.
type payloads struct{ room *semaphore.Weighted }

func newPayloads() payloads { return payloads{semaphore.NewWeighted(payloadBytes)} }

// withPayload runs send with the record's payload, which it loads where the record owes
// it. That takes PayloadRoom and PayloadLoad at most: the broker's call has its time after
// that. send is not run where the payload can't be had, or came too late for that call.
func (a *Activities) withPayload(ctx context.Context, record outflow.Record, send func(outflow.Record) error) (loadErr, err error) {
	if record.Owed == 0 {
		return nil, send(record)
	}
	weight := int64(min(record.Owed, payloadBytes))
	forRoom, cancel := context.WithTimeout(ctx, PayloadRoom)
	defer cancel()
	if err := a.payloads.room.Acquire(forRoom, weight); err != nil {
		return fmt.Errorf("waiting for other large payloads to be sent: %w", err), nil
	}
	defer a.payloads.room.Release(weight)
	inTime, cancel := context.WithTimeout(ctx, PayloadLoad)
	defer cancel()
	if record.Payload, loadErr = a.store.LoadPayload(inTime, record); loadErr != nil {
		return loadErr, nil
	}
	if timeLeft(ctx) < BrokerCall {
		return outflow.ErrNotAttempted, nil
	}
	return nil, send(record)
}
