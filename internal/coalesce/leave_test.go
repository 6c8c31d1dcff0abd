package coalesce_test

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/coalesce"
	"github.com/outflowhq/outflow/internal/panics"
)

func TestCallerLeavesBeforeTheSealing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		c := coalesce.New(coalesce.Options[int]{MaxItems: 10, Linger: time.Minute}, r.call)
		ctx, cancel := context.WithCancel(t.Context())
		gone := all(ctx, c, 1)
		stays := all(t.Context(), c, 2)
		cancel()
		err := gone()[0]
		assert.ErrorIs(t, err, outflow.ErrNotAttempted)
		assert.ErrorIs(t, err, context.Canceled)
		noErrors(t, stays())
		assert.Equal(t, [][]int{{2}}, r.batches)
	})
}

func TestLeaverGivesItsBytesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		c := coalesce.New(coalesce.Options[int]{
			MaxItems: 10, MaxBytes: 100, Size: func(n int) int { return n }, Linger: time.Minute,
		}, r.call)
		ctx, cancel := context.WithCancel(t.Context())
		gone := all(ctx, c, 90)
		cancel()
		gone()
		noErrors(t, all(t.Context(), c, 50, 51)())
		assert.Equal(t, [][]int{{50}, {51}}, r.batches)
	})
}

func TestCallerThatIsDoneBeforeItComesIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		c := coalesce.New(coalesce.Options[int]{}, r.call)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := c.Do(ctx, 1)
		assert.ErrorIs(t, err, outflow.ErrNotAttempted)
		assert.ErrorIs(t, err, context.Canceled)
		assert.Empty(t, r.batches)
	})
}

func TestCallerCannotLeaveAfterTheSealing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{duration: time.Minute}
		c := coalesce.New(coalesce.Options[int]{}, r.call)
		ctx, cancel := context.WithCancel(t.Context())
		start := time.Now()
		errs := all(ctx, c, 1)
		cancel()
		noErrors(t, errs())
		assert.Equal(t, time.Minute, time.Since(start), "it waited for the answer")
	})
}

func TestEntryWithTooLittleTimeIsRefused(t *testing.T) {
	const timeout = time.Second
	for name, left := range map[string]time.Duration{
		"at arrival":           timeout - time.Nanosecond,
		"long past":            -time.Hour,
		"at the sealing":       timeout + 5*time.Millisecond,
		"just short of enough": timeout + 10*time.Millisecond - time.Nanosecond,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &recorder{}
				c := coalesce.New(coalesce.Options[int]{MaxItems: 10, Linger: 10 * time.Millisecond, Timeout: timeout},
					r.call)
				ctx, cancel := context.WithTimeout(t.Context(), left)
				defer cancel()
				_, err := c.Do(ctx, 1)
				assert.ErrorIs(t, err, outflow.ErrNotAttempted)
				assert.Empty(t, r.batches)
			})
		})
	}
	t.Run("exactly enough is sent", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := &recorder{}
			c := coalesce.New(coalesce.Options[int]{Timeout: timeout}, r.call)
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			_, err := c.Do(ctx, 1)
			assert.NoError(t, err)
		})
	})
}

func TestNoCallerWaitsForASlotThatComesTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{duration: 2 * time.Second}
		c := coalesce.New(coalesce.Options[int]{MaxItems: 10, Timeout: 3 * time.Second}, r.call)
		busy := all(t.Context(), c, 1)
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		defer cancel()
		start := time.Now()
		late, stays := all(ctx, c, 2), all(t.Context(), c, 3)
		assert.ErrorIs(t, late()[0], outflow.ErrNotAttempted)
		assert.Equal(t, time.Second, time.Since(start), "refused when a call could no longer end in time")
		noErrors(t, busy())
		noErrors(t, stays())
		assert.Equal(t, [][]int{{1}, {3}}, r.batches)
	})
}

func TestDeadCallDoesNotHangItsCallers(t *testing.T) {
	boom := errors.New("boom")
	for name, tc := range map[string]struct {
		call func(in []int) []coalesce.Result[int]
		want func(t *testing.T, err error)
	}{
		"panic": {
			call: func([]int) []coalesce.Result[int] { panic("boom") },
			want: func(t *testing.T, err error) {
				var p *panics.Error
				require.ErrorAs(t, err, &p)
				assert.ErrorContains(t, err, "the shared call panicked: a string")
				assert.Equal(t, "boom", p.Value)
				assert.Contains(t, string(p.Stack), "leave_test.go")
			},
		},
		"panic with an error": {
			call: func([]int) []coalesce.Result[int] { panic(boom) },
			want: func(t *testing.T, err error) { assert.ErrorIs(t, err, boom) },
		},
		"Goexit": {
			call: func([]int) []coalesce.Result[int] { runtime.Goexit(); return nil },
			want: func(t *testing.T, err error) { assert.ErrorIs(t, err, coalesce.ErrNoResult) },
		},
		"no results": {
			call: func([]int) []coalesce.Result[int] { return nil },
			want: func(t *testing.T, err error) { assert.ErrorIs(t, err, coalesce.ErrNoResult) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := coalesce.New(coalesce.Options[int]{MaxItems: 2},
					func(_ context.Context, in []int) []coalesce.Result[int] { return tc.call(in) })
				for _, err := range all(t.Context(), c, 1, 2, 3)() { // the slot comes free again
					tc.want(t, err)
				}
			})
		})
	}
	t.Run("short results", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := coalesce.New(coalesce.Options[int]{MaxItems: 2, Linger: time.Second},
				func(_ context.Context, in []int) []coalesce.Result[int] {
					return []coalesce.Result[int]{{Value: 2 * in[0]}}
				})
			errs := all(t.Context(), c, 1, 2)()
			assert.NoError(t, errs[0])
			assert.ErrorIs(t, errs[1], coalesce.ErrNoResult)
		})
	})
}
