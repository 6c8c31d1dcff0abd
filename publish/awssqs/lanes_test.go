package awssqs

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/outflowhq/outflow"
)

func TestLanesAreBoundedAndNeverDroppedInUse(t *testing.T) {
	p := New(nil)
	p.maxLanes = 3
	d := func(n int) outflow.Destination {
		return outflow.Destination{Scheme: outflow.SchemeSQS, Name: fmt.Sprintf("q%d", n)}
	}
	busy := p.acquire(d(0))
	for n := range 10 {
		p.lanes.release(p.acquire(d(n)))
	}
	assert.Same(t, busy, p.acquire(d(0)), "the busy one stays although it is old")
	p.lanes.release(busy)
	assert.Len(t, p.lanes.byKey, 3)
	assert.Equal(t, 3, p.lanes.recent.Len())
	assert.Contains(t, p.lanes.byKey, "sqs://q9")
	assert.Contains(t, p.lanes.byKey, "sqs://q8")

	var all []*lane
	for n := range 10 {
		all = append(all, p.acquire(d(n)))
	}
	assert.Len(t, p.lanes.byKey, 10, "as many as are in use")
	p.lanes.release(busy)
	for _, l := range all {
		p.lanes.release(l)
	}
	p.lanes.release(p.acquire(d(10)))
	assert.Len(t, p.lanes.byKey, 3)
	for _, l := range p.lanes.byKey {
		assert.Zero(t, l.users, l.key)
	}
}

func TestLanesUnderConcurrentUse(t *testing.T) {
	p := New(nil)
	p.maxLanes = 5
	var wg sync.WaitGroup
	for n := range 50 {
		wg.Go(func() {
			for i := range 100 {
				d := outflow.Destination{Scheme: outflow.SchemeSQS, Name: fmt.Sprintf("q%d", (n+i)%20)}
				l := p.acquire(d)
				assert.Equal(t, d.String(), l.key)
				p.lanes.release(l)
			}
		})
	}
	wg.Wait()
	p.lanes.release(p.acquire(outflow.Destination{Scheme: outflow.SchemeSQS, Name: "new"}))
	assert.LessOrEqual(t, len(p.lanes.byKey), 5)
}
