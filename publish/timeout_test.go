package publish_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish"
)

func TestCallTime(t *testing.T) {
	const fast, durable = 4 * time.Second, time.Minute
	for _, c := range []struct {
		name            string
		own, left, want time.Duration
	}{
		{"a durable attempt has the publisher's own", 15 * time.Second, durable, 15 * time.Second},
		{"the fast path is quick", 15 * time.Second, fast, outflow.FastPathCallTime},
		{"and never slower than the publisher's own", time.Second, fast, time.Second},
		{"half a minute at most", time.Hour, durable, outflow.MaxCallTime},
		{"no caller waits any more", 15 * time.Second, 0, 15 * time.Second},
		{"just enough time", 15 * time.Second, 16 * time.Second, 15 * time.Second},
		{"too little time", 15 * time.Second, 16*time.Second - 1, outflow.FastPathCallTime},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				if c.left > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, c.left)
					defer cancel()
				}
				assert.Equal(t, c.want, publish.CallTime(ctx, c.own))
			})
		})
	}
}
