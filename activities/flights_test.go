package activities

import (
	"context"
	"errors"
	"maps"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/outbox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newRef() outbox.Ref { return outbox.Ref{ID: uuid.Must(uuid.NewV7()), Generation: 1} }

// attempts is an attempt that takes a second, and counts.
type attempts struct {
	mu     sync.Mutex
	made   int
	result PublishResult
	err    error
}

func (a *attempts) make(ctx context.Context) (PublishResult, error) {
	a.mu.Lock()
	a.made++
	result, err := a.result, a.err
	a.mu.Unlock()
	select {
	case <-time.After(time.Second):
		return result, err
	case <-ctx.Done():
		return PublishResult{}, ctx.Err()
	}
}

// known are the attempts that are under way or remembered.
func known(f *flights) []outbox.Ref {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Keys(f.open))
}

var published = PublishResult{Verdict: Published, BrokerMessageID: "broker-1"}

func TestFlightsJoinWhatIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, a, ref := newFlights(), &attempts{result: published}, newRef()
		var wg sync.WaitGroup
		var mu sync.Mutex
		joins := 0
		for range 10 {
			wg.Go(func() {
				result, joined, err := f.do(t.Context(), ref, a.make)
				assert.NoError(t, err)
				assert.Equal(t, published, result)
				mu.Lock()
				defer mu.Unlock()
				if joined {
					joins++
				}
			})
		}
		wg.Wait()
		assert.Equal(t, 1, a.made)
		assert.Equal(t, 9, joins)
		f.forget(ref)
	})
}

func TestFlightsOfOtherGenerationsAreOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, a, ref := newFlights(), &attempts{result: published}, newRef()
		next := outbox.Ref{ID: ref.ID, Generation: 2}
		var wg sync.WaitGroup
		wg.Go(func() { _, _, _ = f.do(t.Context(), ref, a.make) })
		wg.Go(func() { _, _, _ = f.do(t.Context(), next, a.make) })
		wg.Wait()
		assert.Equal(t, 2, a.made)
		f.forget(ref)
		assert.Contains(t, known(f), next)
		f.forget(next)
	})
}

func TestFlightsRememberAnAckUntilItsMark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, a, ref := newFlights(), &attempts{result: published}, newRef()
		for range 3 {
			_, _, err := f.do(t.Context(), ref, a.make)
			require.NoError(t, err)
			time.Sleep(timing.KeepAcknowledgement / 4)
		}
		assert.Equal(t, 1, a.made)
		f.forget(ref)
		assert.Empty(t, known(f))
		_, joined, err := f.do(t.Context(), ref, a.make)
		require.NoError(t, err)
		assert.False(t, joined)
		assert.Equal(t, 2, a.made, "forgotten: it looks at the row again")
		f.forget(ref)
	})
}

func TestFlightsRememberNothingElse(t *testing.T) {
	for name, a := range map[string]*attempts{
		"a failure":      {err: errors.New("reset")},
		"an end":         {result: PublishResult{Verdict: Ended}},
		"an expiry":      {result: PublishResult{Verdict: Overdue}},
		"a cancel":       {result: PublishResult{Verdict: Withdrawn}},
		"a supersession": {result: PublishResult{Verdict: Superseded}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, ref := newFlights(), newRef()
				for range 2 {
					_, _, err := f.do(t.Context(), ref, a.make)
					assert.Equal(t, a.err, err)
				}
				assert.Equal(t, 2, a.made)
				assert.Empty(t, known(f))
			})
		})
	}
}

func TestFlightsForgetAnAckThatNobodyMarks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, a, ref := newFlights(), &attempts{result: published}, newRef()
		_, _, err := f.do(t.Context(), ref, a.make)
		require.NoError(t, err)
		time.Sleep(timing.KeepAcknowledgement - time.Nanosecond)
		synctest.Wait()
		assert.Contains(t, known(f), ref)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		assert.Empty(t, known(f))
	})
}

// One that is never marked must not keep the others.
func TestFlightsMemoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, a, stuck := newFlights(), &attempts{result: published}, newRef()
		_, _, err := f.do(t.Context(), stuck, a.make)
		require.NoError(t, err)
		for range 300 {
			ref := newRef()
			_, _, err := f.do(t.Context(), ref, a.make)
			require.NoError(t, err)
			f.forget(ref)
		}
		assert.Len(t, known(f), 1)
		f.forget(stuck)
		assert.Empty(t, known(f))
	})
}

// The caller leaves, the publish goes on, and the caller that comes back meets it.
func TestFlightsOutliveTheirCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, a, ref := newFlights(), &attempts{result: published}, newRef()
		short, leave := context.WithCancel(t.Context())
		time.AfterFunc(500*time.Millisecond, leave)
		_, _, err := f.do(short, ref, a.make)
		require.ErrorIs(t, err, context.Canceled)
		result, joined, err := f.do(t.Context(), ref, a.make)
		require.NoError(t, err)
		assert.Equal(t, published, result)
		assert.True(t, joined)
		assert.Equal(t, 1, a.made)
		f.forget(ref)
	})
}

// A caller that joins with little time leaves alone; the flight keeps the
// deadline of the one who started it.
func TestFlightsKeepTheirOwnDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, a, ref := newFlights(), &attempts{result: published}, newRef()
		first := make(chan error, 1)
		go func() {
			_, _, err := f.do(t.Context(), ref, a.make)
			first <- err
		}()
		synctest.Wait()
		short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, joined, err := f.do(short, ref, a.make)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.True(t, joined)
		require.NoError(t, <-first)

		ref = newRef()
		short, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, _, err = f.do(short, ref, a.make)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		synctest.Wait()
		assert.NotContains(t, known(f), ref, "an attempt ends with its own deadline")
	})
}

func TestFlightsEndWithoutADeadlineToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlights()
		began := time.Now()
		_, _, err := f.do(t.Context(), newRef(), func(ctx context.Context) (PublishResult, error) {
			<-ctx.Done()
			return PublishResult{}, ctx.Err()
		})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, timing.LocalPublish, time.Since(began))
	})
}

// A publisher that ends its goroutine acknowledged nothing.
func TestFlightsWithoutAnAnswer(t *testing.T) {
	f, ref := newFlights(), newRef()
	result, _, err := f.do(t.Context(), ref, func(context.Context) (PublishResult, error) {
		runtime.Goexit()
		return published, nil
	})
	require.Error(t, err)
	assert.False(t, outflow.IsPermanent(err))
	assert.Empty(t, result.Verdict)
	assert.Empty(t, known(f))
}

func TestAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, a, ref := newFlights(), &attempts{result: published}, newRef()
		got, err := f.acknowledged(t.Context(), ref)
		require.NoError(t, err)
		assert.Nil(t, got, "nothing was sent here")

		go func() { _, _, _ = f.do(t.Context(), ref, a.make) }()
		synctest.Wait()
		short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, err = f.acknowledged(short, ref)
		require.ErrorIs(t, err, context.DeadlineExceeded, "nothing is known yet")
		got, err = f.acknowledged(t.Context(), ref)
		require.NoError(t, err)
		assert.Equal(t, &published, got)
		f.forget(ref)

		a.err = errors.New("reset")
		go func() { _, _, _ = f.do(t.Context(), ref, a.make) }()
		synctest.Wait()
		got, err = f.acknowledged(t.Context(), ref)
		require.NoError(t, err)
		assert.Nil(t, got, "it failed")

		a.err, a.result = nil, PublishResult{Verdict: Superseded}
		go func() { _, _, _ = f.do(t.Context(), ref, a.make) }()
		synctest.Wait()
		got, err = f.acknowledged(t.Context(), ref)
		require.NoError(t, err)
		assert.Nil(t, got, "it sent nothing")
	})
}

// A mark that ends while a newer attempt is under way leaves it alone.
func TestForgetLeavesAnAttemptUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, a, ref := newFlights(), &attempts{result: published}, newRef()
		go func() { _, _, _ = f.do(t.Context(), ref, a.make) }()
		synctest.Wait()
		f.forget(ref)
		result, joined, err := f.do(t.Context(), ref, a.make)
		require.NoError(t, err)
		assert.True(t, joined)
		assert.Equal(t, published, result)
		f.forget(ref)
		f.forget(ref) // twice is fine
	})
}
