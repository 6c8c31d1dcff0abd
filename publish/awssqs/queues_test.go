package awssqs

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/outflowhq/outflow"
)

func TestQueuesAreBoundedAndNeverDroppedInUse(t *testing.T) {
	p := New(nil)
	p.maxQueues = 3
	d := func(n int) outflow.Destination {
		return outflow.Destination{Scheme: outflow.SchemeSQS, Name: fmt.Sprintf("q%d", n)}
	}
	busy := p.acquire(d(0))
	for n := range 10 {
		p.queues.release(p.acquire(d(n)))
	}
	assert.Same(t, busy, p.acquire(d(0)), "the busy one stays although it is old")
	p.queues.release(busy)
	assert.Len(t, p.queues.byKey, 3)
	assert.Equal(t, 3, p.queues.recent.Len())
	assert.Contains(t, p.queues.byKey, "sqs://q9")
	assert.Contains(t, p.queues.byKey, "sqs://q8")

	var all []*queue
	for n := range 10 {
		all = append(all, p.acquire(d(n)))
	}
	assert.Len(t, p.queues.byKey, 10, "as many as are in use")
	p.queues.release(busy)
	for _, q := range all {
		p.queues.release(q)
	}
	p.queues.release(p.acquire(d(10)))
	assert.Len(t, p.queues.byKey, 3)
	for _, q := range p.queues.byKey {
		assert.Zero(t, q.users, q.key)
	}
}

func TestQueuesUnderConcurrentUse(t *testing.T) {
	p := New(nil)
	p.maxQueues = 5
	var wg sync.WaitGroup
	for n := range 50 {
		wg.Go(func() {
			for i := range 100 {
				d := outflow.Destination{Scheme: outflow.SchemeSQS, Name: fmt.Sprintf("q%d", (n+i)%20)}
				q := p.acquire(d)
				assert.Equal(t, d.String(), q.key)
				p.queues.release(q)
			}
		})
	}
	wg.Wait()
	p.queues.release(p.acquire(outflow.Destination{Scheme: outflow.SchemeSQS, Name: "new"}))
	assert.LessOrEqual(t, len(p.queues.byKey), 5)
}
