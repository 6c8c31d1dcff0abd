package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/operator"
	"github.com/outflowhq/outflow/outbox"
)

// A purge asks who is at a terminal, and deletes nothing before the answer.
func TestPurgeAsks(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	settings := map[string]string{"DATABASE_URL": pool.Config().ConnString(), "OUTFLOW_WHO": "ada@host"}
	for range 3 {
		_, errs, err := with(t, settings, "x", "send -destination sqs://orders -type order-placed")
		require.NoError(t, err, errs)
	}
	_, err := pool.Exec(t.Context(), `UPDATE outbox.messages SET state = 'delivered', finished_at = now() - interval '2 days'`)
	require.NoError(t, err)
	left := func() (messages, purges int) {
		require.NoError(t, pool.QueryRow(t.Context(),
			`SELECT (SELECT count(*) FROM outbox.messages), (SELECT count(*) FROM outbox.audit WHERE act = 'purge')`).Scan(&messages, &purges))
		return messages, purges
	}
	answered := func(answer string) (out, errs string, err error) {
		var stdout, stderr bytes.Buffer
		there := at(answer, &stdout, &stderr)
		there.getenv = func(name string) string { return settings[name] }
		err = there.run(t.Context(), strings.Fields("purge -state delivered -older-than 1d"))
		return stdout.String(), stderr.String(), err
	}
	const question = "delete delivered messages that ended more than 24h0m0s ago? [y/N] "
	for _, no := range []string{"n\n", "\n", "", "yes, please\n"} {
		out, errs, err := answered(no)
		assert.Equal(t, 3, code(err), "%q", no)
		assert.EqualError(t, err, "nothing was done")
		assert.Equal(t, question, errs)
		assert.Empty(t, out)
		messages, purges := left()
		assert.Equal(t, 3, messages, "%q", no)
		assert.Zero(t, purges)
	}
	out, errs, err := answered("y\n")
	require.NoError(t, err)
	assert.Equal(t, question, errs)
	assert.Equal(t, "deleted 3 messages\n", out)
	messages, purges := left()
	assert.Zero(t, messages)
	assert.Equal(t, 1, purges)
}

// fakePurge has so many old messages, and may be too slow for more than slow at
// once.
type fakePurge struct {
	left, slow int
	asked      []outbox.Purge
}

func (f *fakePurge) Purge(_ context.Context, p outbox.Purge, _ operator.Actor) (outbox.Purged, error) {
	f.asked = append(f.asked, p)
	if f.slow > 0 && p.Limit > f.slow {
		return outbox.Purged{}, fmt.Errorf("purging: %w", context.DeadlineExceeded)
	}
	n := min(p.Limit, f.left)
	f.left -= n
	return outbox.Purged{Rows: n, UpTo: time.Unix(int64(len(f.asked)), 0)}, nil
}

func TestPurgeMessages(t *testing.T) {
	for name, c := range map[string]struct {
		left, limit, slow int
		rate              float64
		asked             []int
		out               string
	}{
		"all":              {2500, 0, 0, 0, []int{1000, 1000, 1000}, "moved 2500 messages\n"},
		"some":             {2500, 1200, 0, 0, []int{1000, 200}, "moved 1200 messages\n"},
		"none":             {0, 0, 0, 0, []int{1000}, "moved 0 messages\n"},
		"whole pages":      {2000, 0, 0, 0, []int{1000, 1000, 1000}, "moved 2000 messages\n"},
		"large payloads":   {25, 0, 10, 0, []int{1000, 100, 10, 10, 10}, "moved 25 messages\n"},
		"no more a second": {250, 0, 0, 100, []int{100, 100, 100}, "moved 250 messages\n"},
		"a slow rate":      {1, 0, 0, 0.5, []int{1, 1}, "moved 1 messages\n"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				store, began := &fakePurge{left: c.left, slow: c.slow}, time.Now()
				p := purging{Purge: outbox.Purge{State: outflow.Dead, OlderThan: time.Hour, Limit: purgeChunk,
					History: true}, limit: c.limit, rate: c.rate}
				require.NoError(t, purgeMessages(t.Context(), at("", &out, io.Discard), store.Purge, p))
				var asked []int
				for i, p := range store.asked {
					asked = append(asked, p.Limit)
					assert.Equal(t, outbox.Purge{State: outflow.Dead, OlderThan: time.Hour, History: true},
						outbox.Purge{State: p.State, OlderThan: p.OlderThan, History: p.History})
					if i > 0 && c.slow == 0 {
						assert.Equal(t, time.Unix(int64(i), 0), p.After, "each goes on where the one before stopped")
					}
				}
				assert.Equal(t, c.asked, asked)
				assert.Equal(t, c.out, out.String())
				if c.rate > 0 {
					assert.Equal(t, time.Duration(float64(c.left/c.asked[0]*c.asked[0])/c.rate*float64(time.Second)),
						time.Since(began))
				}
			})
		})
	}
	t.Run("reports its progress", func(t *testing.T) {
		for history, want := range map[bool]string{false: "deleted 400\ndeleted 700\n",
			true: "moved 400\nmoved 700\n"} {
			synctest.Test(t, func(t *testing.T) {
				var errs bytes.Buffer
				p := purging{Purge: outbox.Purge{State: outflow.Dead, Limit: purgeChunk, History: history}, rate: 100}
				require.NoError(t, purgeMessages(t.Context(), at("", io.Discard, &errs), (&fakePurge{left: 850}).Purge,
					p))
				assert.Equal(t, want, errs.String(), "each time that more than two seconds have passed")
			})
		}
		var errs bytes.Buffer
		require.NoError(t, purgeMessages(t.Context(), at("", io.Discard, &errs), (&fakePurge{left: 2500}).Purge,
			purging{Purge: outbox.Purge{Limit: purgeChunk}}))
		assert.Empty(t, errs.String(), "a short one says nothing until it is done")
	})
	var out bytes.Buffer
	require.NoError(t, purgeMessages(t.Context(), at("", &out, io.Discard), (&fakePurge{left: 3}).Purge,
		purging{Purge: outbox.Purge{Limit: 10}, json: true}))
	assert.Equal(t, "{\"deleted\":3}\n", out.String())
	stopped, stop := context.WithCancelCause(t.Context())
	stop(errors.New("Ctrl-C"))
	err := purgeMessages(stopped, at("", io.Discard, io.Discard), (&fakePurge{left: 3}).Purge,
		purging{rate: 1, Purge: outbox.Purge{Limit: 10}})
	assert.EqualError(t, err, "stopped after 1 messages: Ctrl-C")
}
