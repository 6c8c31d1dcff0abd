package faults

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outboxdb"
)

const (
	producers     = 4
	perCommit     = 2               // messages of one transaction
	commitTimeout = 5 * time.Second // of one transaction
)

// Load enqueues at a steady rate in small transactions, as an application would,
// and knows what was committed. A transaction that fails is not repeated.
type Load struct {
	world        *World
	destinations []string
	callbacks    []string    // none, or to each in turn
	full         func() bool // nil, or whether to leave a commit out
	stop         context.CancelFunc
	running      sync.WaitGroup

	mu        sync.Mutex
	committed []uuid.UUID
	// unsure are those whose commit had no answer: the table alone knows.
	unsure []uuid.UUID
	next   int
}

// StartLoad enqueues rate messages a second, to each destination in turn, until
// Stop.
func (w *World) StartLoad(rate int, destinations ...string) *Load {
	return w.start(&Load{destinations: destinations}, rate)
}

// StartTellingLoad is StartLoad to one destination, with callbacks to each
// address in turn.
func (w *World) StartTellingLoad(rate int, destination string, callbacks ...string) *Load {
	return w.start(&Load{destinations: []string{destination}, callbacks: callbacks}, rate)
}

func (w *World) start(l *Load, rate int) *Load {
	ctx, stop := context.WithCancel(context.Background())
	l.world, l.stop = w, stop
	each := time.Second * producers * perCommit / time.Duration(rate)
	for i := range producers {
		l.running.Go(func() { l.produce(ctx, each, each*time.Duration(i)/producers) })
	}
	return l
}

func (l *Load) produce(ctx context.Context, each, first time.Duration) {
	timer := time.NewTimer(first)
	defer timer.Stop()
	for next := time.Now().Add(first); ; {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if l.full == nil || !l.full() {
			l.enqueue()
		}
		// A commit that took long makes the following ones late, not rare.
		next = next.Add(each)
		timer.Reset(time.Until(next))
	}
}

// enqueue commits one transaction, whether or not the load is stopped meanwhile.
func (l *Load) enqueue() {
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	messages, ids := l.messages()
	tx, err := l.world.Pool.Begin(ctx)
	if err != nil {
		return
	}
	if _, err := outboxdb.Enqueue(ctx, tx, messages...); err != nil {
		_ = tx.Rollback(ctx) // a connection that is gone has rolled back
		return
	}
	err = tx.Commit(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.committed = append(l.committed, ids...)
	} else {
		l.unsure = append(l.unsure, ids...)
	}
}

func (l *Load) messages() (messages []outflow.Message, ids []uuid.UUID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for range perCommit {
		id := uuid.Must(uuid.NewV7())
		m := outflow.Message{
			ID: id, Destination: l.destinations[l.next%len(l.destinations)], Type: "numbered",
			Payload: fmt.Appendf(nil, `{"number":%d}`, l.next),
		}
		if len(l.callbacks) > 0 {
			m.Callback = l.callbacks[l.next%len(l.callbacks)]
		}
		messages = append(messages, m)
		ids = append(ids, id)
		l.next++
	}
	return messages, ids
}

// Stop ends the load, and returns when the last commit has its answer.
func (l *Load) Stop() {
	l.stop()
	l.running.Wait()
}

// Committed is how many messages are known to be committed.
func (l *Load) Committed() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.committed)
}
