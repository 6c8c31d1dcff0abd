package coalesce_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/coalesce"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder is a shared call that doubles each number, notes its batches and,
// where duration is set, takes that long.
type recorder struct {
	duration time.Duration

	mu      sync.Mutex
	batches [][]int
	open    int
	most    int
	began   []time.Time
}

func (r *recorder) call(ctx context.Context, in []int) []coalesce.Result[int] {
	r.mu.Lock()
	r.batches = append(r.batches, in)
	r.began = append(r.began, time.Now())
	r.open++
	r.most = max(r.most, r.open)
	r.mu.Unlock()
	if r.duration > 0 {
		select {
		case <-ctx.Done():
		case <-time.After(r.duration):
		}
	}
	r.mu.Lock()
	r.open--
	r.mu.Unlock()
	out := make([]coalesce.Result[int], 0, len(in))
	for _, n := range in {
		out = append(out, coalesce.Result[int]{Value: 2 * n, Err: ctx.Err()})
	}
	return out
}

// all starts one Do per number, in order, and returns a function that waits
// for their errors.
func all(ctx context.Context, c *coalesce.Coalescer[int, int], numbers ...int) (errs func() []error) {
	found := make([]error, len(numbers))
	var wg sync.WaitGroup
	for i, n := range numbers {
		wg.Go(func() {
			got, err := c.Do(ctx, n)
			if err == nil && got != 2*n {
				err = fmt.Errorf("%d was answered with %d", n, got)
			}
			found[i] = err
		})
		synctest.Wait() // it is in the queue before the next comes
	}
	return func() []error { wg.Wait(); return found }
}

func count(from, n int) (numbers []int) {
	for i := range n {
		numbers = append(numbers, from+i)
	}
	return numbers
}

func noErrors(t *testing.T, errs []error) {
	t.Helper()
	for _, err := range errs {
		assert.NoError(t, err)
	}
}

func TestEntriesThatArriveTogetherShareOneCallInTheirOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		c := coalesce.New(coalesce.Options[int]{MaxItems: 10, Linger: 5 * time.Millisecond}, r.call)
		start := time.Now()
		noErrors(t, all(t.Context(), c, 3, 1, 2)())
		assert.Equal(t, [][]int{{3, 1, 2}}, r.batches)
		assert.Equal(t, 5*time.Millisecond, r.began[0].Sub(start), "the oldest waited Linger")
	})
}

func TestFullBatchDoesNotLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		c := coalesce.New(coalesce.Options[int]{MaxItems: 2, MaxCalls: 3, Linger: time.Hour}, r.call)
		start := time.Now()
		noErrors(t, all(t.Context(), c, 1, 2, 3, 4)())
		assert.Equal(t, [][]int{{1, 2}, {3, 4}}, r.batches)
		assert.Zero(t, time.Since(start))
	})
}

func TestBusyLingerLastsFromASharedCallToALoneOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		c := coalesce.New(coalesce.Options[int]{MaxItems: 10, Linger: 5 * time.Millisecond,
			BusyLinger: 20 * time.Millisecond}, r.call)
		var waited []time.Duration
		for _, together := range [][]int{{1}, {2, 3}, {4, 5}, {6}, {7}} {
			start := time.Now()
			noErrors(t, all(t.Context(), c, together...)())
			waited = append(waited, time.Since(start)/time.Millisecond)
		}
		assert.Equal(t, []time.Duration{5, 5, 20, 20, 5}, waited, "milliseconds")
	})
}

// An entry before which none has come for a while is most likely alone: it does not wait.
func TestALoneEntryGoesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		c := coalesce.New(coalesce.Options[int]{MaxItems: 10, Linger: 5 * time.Millisecond,
			BusyLinger: 20 * time.Millisecond, LoneAtOnce: true}, r.call)
		waited := func(numbers ...int) time.Duration {
			start := time.Now()
			noErrors(t, all(t.Context(), c, numbers...)())
			return time.Since(start) / time.Millisecond
		}
		assert.Zero(t, waited(1), "the first")
		time.Sleep(9 * time.Millisecond)
		assert.EqualValues(t, 5, waited(2), "another came lately")
		time.Sleep(10 * time.Millisecond)
		assert.Zero(t, waited(3))
		time.Sleep(10 * time.Millisecond)
		assert.EqualValues(t, 5, waited(4, 5, 6), "the others of a burst share a call")
		assert.Equal(t, [][]int{{1}, {2}, {3}, {4}, {5, 6}}, r.batches)
		time.Sleep(30 * time.Millisecond)
		assert.EqualValues(t, 20, waited(7), "under load it waits for longer")
	})
}

func TestZeroOptionsSendEachEntryAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{duration: time.Second}
		c := coalesce.New(coalesce.Options[int]{}, r.call)
		noErrors(t, all(t.Context(), c, 1, 2, 3)())
		assert.Equal(t, [][]int{{1}, {2}, {3}}, r.batches)
		assert.Equal(t, 1, r.most)
	})
}

func TestBytesBoundABatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{duration: time.Millisecond}
		c := coalesce.New(coalesce.Options[int]{
			MaxItems: 10, MaxBytes: 100, Size: func(n int) int { return n }, Linger: time.Minute,
		}, r.call)
		// 40 waits; 50 fits beside it; 30 does not; 500 is larger than any batch
		// and goes alone; the last one waits out its Linger.
		start := time.Now()
		noErrors(t, all(t.Context(), c, 40, 50, 30, 500, 60, 40, 7)())
		assert.Equal(t, [][]int{{40, 50}, {30}, {500}, {60, 40}, {7}}, r.batches)
		assert.Equal(t, time.Minute, r.began[4].Sub(start))
	})
}

func TestAtMostMaxCallsAreOpenAndTheRestShareMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{duration: time.Second}
		c := coalesce.New(coalesce.Options[int]{MaxItems: 10, MaxCalls: 2, Linger: time.Millisecond}, r.call)
		errs := all(t.Context(), c, 1)
		time.Sleep(10 * time.Millisecond)
		more := all(t.Context(), c, 2)
		time.Sleep(10 * time.Millisecond) // two calls are open: the others gather far beyond Linger
		rest := all(t.Context(), c, count(3, 10)...)
		last := all(t.Context(), c, 13)
		noErrors(t, errs())
		noErrors(t, more())
		noErrors(t, rest())
		noErrors(t, last())
		assert.Equal(t, [][]int{{1}, {2}, count(3, 10), {13}}, r.batches)
		assert.Equal(t, 2, r.most)
		assert.Equal(t, time.Second, r.began[2].Sub(r.began[0]), "sealed as soon as a slot was free")
	})
}

func TestCallHasItsOwnDeadlineAndNoCallersValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type key struct{}
		var left time.Duration
		var value any
		c := coalesce.New(coalesce.Options[int]{Linger: time.Second, Timeout: 2 * time.Second},
			func(ctx context.Context, in []int) []coalesce.Result[int] {
				deadline, _ := ctx.Deadline()
				left, value = time.Until(deadline), ctx.Value(key{})
				<-ctx.Done()
				return []coalesce.Result[int]{{Err: ctx.Err()}}
			})
		_, err := c.Do(context.WithValue(t.Context(), key{}, "a caller's"), 1)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, 2*time.Second, left)
		assert.Nil(t, value)
	})
}

func TestThroughputOfManyCallers(t *testing.T) {
	// On the real scheduler, for the race detector: callers come, leave and run out of time while
	// calls succeed. Every entry is settled once, and an entry that was not attempted was in no
	// call.
	const callers, each = 200, 50
	var sent sync.Map
	var calls atomic.Int64
	c := coalesce.New(coalesce.Options[int]{
		MaxItems: 10, MaxBytes: 1000, Size: func(n int) int { return n % 300 },
		Linger: 100 * time.Microsecond, MaxCalls: 4, Timeout: time.Second,
	}, func(_ context.Context, in []int) []coalesce.Result[int] {
		calls.Add(1)
		assert.LessOrEqual(t, len(in), 10)
		out := make([]coalesce.Result[int], 0, len(in))
		for _, n := range in {
			_, again := sent.LoadOrStore(n, true)
			assert.False(t, again, "%d was in two calls", n)
			out = append(out, coalesce.Result[int]{Value: 2 * n})
		}
		return out
	})
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			for i := range each {
				n := caller*each + i
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				if n%3 == 0 {
					ctx, cancel = context.WithCancel(t.Context())
					go cancel()
				}
				got, err := c.Do(ctx, n)
				cancel()
				_, was := sent.Load(n)
				if err != nil {
					require.ErrorIs(t, err, outflow.ErrNotAttempted)
					require.ErrorIs(t, err, context.Canceled)
					require.False(t, was, "%d left and was sent", n)
				} else {
					require.Equal(t, 2*n, got)
					require.True(t, was)
				}
			}
		})
	}
	wg.Wait()
	assert.Less(t, calls.Load(), int64(callers*each/2), "entries shared calls")
}
