package publishtest

import (
	"bytes"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/outflowhq/outflow"
)

func unparsableDestination(t *testing.T, h Harness) {
	_, err := h.Publisher(t).Publish(t.Context(), message("no destination"))
	failsAs(t, outflow.ClassPermanent, err)
}

func otherScheme(t *testing.T, h Harness) {
	p, other := h.Publisher(t), "sqs://orders"
	if p.Scheme() == outflow.SchemeSQS {
		other = "sns://orders"
	}
	_, err := p.Publish(t.Context(), message(other))
	failsAs(t, outflow.ClassPermanent, err)
	assert.ErrorContains(t, err, other)
}

func missingDestination(t *testing.T, h Harness) {
	missing := h.MissingDestination(t)
	_, err := h.Publisher(t).Publish(t.Context(), message(missing))
	failsAs(t, outflow.ClassPermanent, err)
	assert.ErrorContains(t, err, missing)
	assert.ErrorIs(t, err, outflow.ErrNoDestination)
}

// large returns a message that is larger than the broker takes.
func large(h Harness, destination string) outflow.Message {
	m := message(destination)
	m.Payload = append(m.Payload, bytes.Repeat([]byte("x"), h.MaxBytes())...)
	return m
}

func tooLarge(t *testing.T, h Harness) {
	destination := h.Destination(t)
	_, err := h.Publisher(t).Publish(t.Context(), large(h, destination))
	failsAs(t, outflow.ClassPermanent, err)
	assert.ErrorContains(t, err, destination)
}

func tooLargeAmongOthers(t *testing.T, h Harness) {
	p, destination := h.Publisher(t), h.Destination(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := p.Publish(t.Context(), large(h, destination))
		assert.True(t, outflow.IsPermanent(err), "%v", err)
	})
	for range 9 {
		wg.Go(func() {
			_, err := p.Publish(t.Context(), message(destination))
			assert.NoError(t, err)
		})
	}
	wg.Wait()
	assert.Len(t, h.Receive(t, destination, 9), 9)
}
