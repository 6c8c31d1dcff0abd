package awsbatch

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish/internal/aws"
)

// anywhere is a service whose destinations are all known.
var anywhere = Service{
	Scheme: outflow.SchemeSQS, Errors: &aws.Service{Name: "SQS"}, MaxBytes: 1000, BatchBytes: 1000,
	Finder: func(outflow.Destination, time.Duration) Finder { return nowhere{} },
}

type nowhere struct{}

func (nowhere) Find(context.Context, time.Duration, *Address) (*Address, error) {
	return &Address{Value: "nowhere"}, nil
}

func TestTargetsAreBoundedAndNeverDroppedInUse(t *testing.T) {
	p := New(anywhere)
	p.maxDestinations = 3
	d := func(n int) outflow.Destination {
		return outflow.Destination{Scheme: outflow.SchemeSQS, Name: fmt.Sprintf("q%d", n)}
	}
	busy := p.acquire(d(0))
	for n := range 10 {
		p.targets.release(p.acquire(d(n)))
	}
	assert.Same(t, busy, p.acquire(d(0)), "the busy one stays although it is old")
	p.targets.release(busy)
	assert.Len(t, p.targets.byKey, 3)
	assert.Equal(t, 3, p.targets.recent.Len())
	assert.Contains(t, p.targets.byKey, "sqs://q9")
	assert.Contains(t, p.targets.byKey, "sqs://q8")

	var all []*target
	for n := range 10 {
		all = append(all, p.acquire(d(n)))
	}
	assert.Len(t, p.targets.byKey, 10, "as many as are in use")
	p.targets.release(busy)
	for _, q := range all {
		p.targets.release(q)
	}
	p.targets.release(p.acquire(d(10)))
	assert.Len(t, p.targets.byKey, 3)
	for _, q := range p.targets.byKey {
		assert.Zero(t, q.users, q.key)
	}
}

func TestTargetsUnderConcurrentUse(t *testing.T) {
	p := New(anywhere)
	p.maxDestinations = 5
	var wg sync.WaitGroup
	for n := range 50 {
		wg.Go(func() {
			for i := range 100 {
				d := outflow.Destination{Scheme: outflow.SchemeSQS, Name: fmt.Sprintf("q%d", (n+i)%20)}
				q := p.acquire(d)
				assert.Equal(t, d.String(), q.key)
				p.targets.release(q)
			}
		})
	}
	wg.Wait()
	p.targets.release(p.acquire(outflow.Destination{Scheme: outflow.SchemeSQS, Name: "new"}))
	assert.LessOrEqual(t, len(p.targets.byKey), 5)
}
