package presence

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"go.uber.org/goleak"

	"github.com/outflowhq/outflow/outbox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// table counts writes, and fails while a test says so.
type table struct {
	mu                   sync.Mutex
	err                  error
	announced, withdrawn int
}

func (t *table) set(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.err = err
}

func (t *table) Announce(context.Context, outbox.Process) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.announced++
	return t.err
}

func (t *table) Withdraw(context.Context, uuid.UUID) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.withdrawn++
	return t.err
}

// A table that can't be written to is logged once, until it can: a process works without its entry.
func TestKeepGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said bytes.Buffer
		tab := &table{err: errors.New("permission denied")}
		stop := Keep(t.Context(), tab, func() outbox.Process { return outbox.Process{} }, slog.New(slog.NewTextHandler(&said, nil)))
		const line = "do not know that this process runs"
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.Equal(t, 1, strings.Count(said.String(), line))
		tab.set(nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		tab.set(errors.New("connection refused"))
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.Equal(t, 2, strings.Count(said.String(), line))
		assert.Equal(t, 13, tab.announced)
		stop()
		stop()
		assert.Equal(t, 1, tab.withdrawn)
		assert.NotContains(t, said.String(), "for a minute", "it is known not to be there")
	})
}

// The end of ctx does not end the entry: a process that stops still delivers.
func TestKeepOutlivesItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		tab := &table{}
		stop := Keep(ctx, tab, func() outbox.Process { return outbox.Process{Scans: true} }, slog.New(slog.DiscardHandler))
		cancel()
		time.Sleep(outbox.AnnounceInterval)
		synctest.Wait()
		assert.Equal(t, 2, tab.announced)
		stop()
		assert.Equal(t, 1, tab.withdrawn)
	})
}

// What others should know is written as it changes.
func TestAChangeIsWrittenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := &table{}
		var problem atomic.Value
		problem.Store("")
		stop := Keep(t.Context(), tab, func() outbox.Process {
			return outbox.Process{Schemes: []string{"sqs"}, TriggerProblem: problem.Load().(string)}
		}, slog.New(slog.DiscardHandler))
		defer stop()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		assert.Equal(t, 1, tab.announced)
		problem.Store("it is broken")
		time.Sleep(2 * time.Second)
		synctest.Wait()
		assert.Equal(t, 2, tab.announced)
	})
}
