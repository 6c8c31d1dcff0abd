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
	world   *World
	message func(n int) outflow.Message
	full    func() bool // nil, or whether to leave a commit out
	stop    context.CancelFunc
	running sync.WaitGroup

	mu        sync.Mutex
	committed []uuid.UUID
	// unsure are those whose commit had no answer: the table alone knows.
	unsure []uuid.UUID
	next   int
}

// StartLoad enqueues rate messages a second, to each destination in turn, until
// Stop.
func (w *World) StartLoad(rate int, destinations ...string) *Load {
	return w.StartLoadOf(rate, func(n int) outflow.Message { return numbered(n, destinations[n%len(destinations)]) })
}

// StartLoadOf enqueues rate messages a second until Stop: the nth, from 0, is what
// message returns, under an ID of the load's.
func (w *World) StartLoadOf(rate int, message func(n int) outflow.Message) *Load {
	return w.start(&Load{message: message}, rate)
}

// StartBoundedLoad is StartLoadOf that enqueues nothing while full says so.
func (w *World) StartBoundedLoad(rate int, full func() bool, message func(n int) outflow.Message) *Load {
	return w.start(&Load{message: message, full: full}, rate)
}

// StartCallbackLoad is StartLoad to one destination, with callbacks to each
// address in turn.
func (w *World) StartCallbackLoad(rate int, destination string, callbacks ...string) *Load {
	return w.StartLoadOf(rate, withCallbacks(destination, callbacks...))
}

func numbered(n int, destination string) outflow.Message {
	return outflow.Message{Destination: destination, Type: "numbered", Payload: fmt.Appendf(nil, `{"number":%d}`, n)}
}

func withCallbacks(destination string, callbacks ...string) func(n int) outflow.Message {
	return func(n int) outflow.Message {
		m := numbered(n, destination)
		m.Callback = callbacks[n%len(callbacks)]
		return m
	}
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
		m := l.message(l.next)
		m.ID = uuid.Must(uuid.NewV7())
		messages = append(messages, m)
		ids = append(ids, m.ID)
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
