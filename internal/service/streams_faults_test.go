package service

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/brokers"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
	"github.com/outflowhq/outflow/publish/webhook"
	"github.com/outflowhq/outflow/scanner"
)

// behind returns a pool whose connections go through a relay.
func (s *streams) behind() (*teststack.Relay, *pgxpool.Pool) {
	s.Helper()
	relay, through := teststack.NewRelay(s, s.pool)
	pool := teststack.Another(s, s.pool, func(c *pgxpool.Config) {
		c.ConnConfig.Host, c.ConnConfig.Port, c.ConnConfig.Fallbacks = through.Host, through.Port, nil
	})
	return relay, pool
}

// passTime has time go by for the pages.
func (s *streams) passTime(by string) {
	s.Helper()
	s.exec(`UPDATE outbox.pages SET claimed_at = claimed_at - $1::interval, overdue_at = overdue_at - $1::interval`, by)
}

// Postgres is away from a stream for eleven minutes, with some pages acknowledged and not marked. A
// scanner is back first and takes its pages for lost; the stream writes its ends within the grace.
// Nothing is sent twice.
func TestStreamWithoutPostgresForElevenMinutes(t *testing.T) {
	t.Parallel()
	s := newStreams(newWorld(t))
	relay, pool := s.behind()
	s.queue.takes = 50 * time.Millisecond
	s.serve(pool, s.queue)
	s.backlog(20_000)
	s.begin()
	s.untilSent(3000)
	restore := relay.Cut()
	held := 0
	s.eventually(func() bool {
		sent, _ := s.queue.count()
		marked := s.number("state = 'delivered'")
		defer func() { held = sent }()
		return sent == held && sent > marked+1000
	}, func() string { return "no acknowledgements are held" })
	sent, _ := s.queue.count()
	t.Logf("%d acknowledgements are held", sent-s.number("state = 'delivered'"))
	time.Sleep(12 * time.Second) // a heartbeat carries them
	s.passTime("11 minutes")
	freed, err := s.store.FreeLostPages(t.Context())
	require.NoError(t, err)
	require.Zero(t, freed, "it notes them first")
	s.deliver() // other starters are back, too
	time.Sleep(time.Second)
	restore()
	s.eventually(func() bool { return s.number("state = 'delivered'") >= sent },
		func() string { return "the held acknowledgements were not written" })
	s.passTime("1 minute")
	_, err = s.store.FreeLostPages(t.Context())
	require.NoError(t, err)
	s.untilDelivered(20_000)
	s.requireOnce(20_000)
}

// A broker that throttles three of ten: all are delivered, most of them by the stream. Whether its breaker
// opens is chance: the runs of messages that are handed over fail as often.
func TestStreamOfAThrottledQueue(t *testing.T) {
	t.Parallel()
	s := newStreams(newWorld(t))
	s.queue.takes = 5 * time.Millisecond
	s.queue.answer = func(outflow.Message) error {
		if rand.IntN(10) < 3 {
			return outflow.Unavailable(errors.New("throttled"))
		}
		return nil
	}
	s.serve(s.pool, s.queue)
	s.backlog(20_000)
	s.deliver(func(o *scanner.Options) { o.StreamAbove = 100 })
	s.eventually(func() bool { return s.number("state = 'pending'") == 0 },
		func() string { return fmt.Sprint(s.number("state = 'pending'"), " are pending") })
	s.requireOnce(20_000)
	t.Logf("%d were handed over", s.number("NOT streamed AND started"))
}

// A queue that is down ends the stream; its breaker opens, rows wait as they do without streams, and
// all are delivered when it is back, by the next stream.
func TestStreamOfAQueueThatIsDown(t *testing.T) {
	t.Parallel()
	s := newStreams(newWorld(t))
	down := true
	s.queue.answer = func(outflow.Message) error {
		if down {
			return outflow.Unavailable(errors.New("503"))
		}
		return nil
	}
	s.serve(s.pool, s.queue)
	s.backlog(10_000)
	s.begin()
	s.eventually(func() bool {
		return s.says(`SELECT coalesce(bool_or(ended = 'failing' AND runs_until IS NULL), false) FROM outbox.streams`)
	},
		func() string { return "the stream goes on" })
	s.eventually(func() bool {
		return s.says(`SELECT count(*) > 0 FROM outbox.destinations WHERE open_until IS NOT NULL`)
	},
		func() string { return "its breaker stays closed" })
	s.eventually(func() bool { return s.says(`SELECT count(*) = 0 FROM outbox.pages`) },
		func() string { return "pages are left" })
	s.deliver(func(o *scanner.Options) { o.StreamAbove = 100 })
	assert.LessOrEqual(t, s.number("retrying"), 200)
	assert.Greater(t, s.number("attempts = 0"), 8000)
	s.queue.set(func() { down = false })
	s.exec(`UPDATE outbox.streams SET not_before = NULL`)
	s.untilDelivered(10_000)
	s.requireOnce(10_000)
}

// A queue is deleted while a stream delivers to it. Its messages wait for it, none ends dead, and they
// are delivered when it is there again. The publisher and the queue's protocol are the real ones.
func TestStreamOfAQueueThatIsDeleted(t *testing.T) {
	t.Parallel()
	s := newStreams(newWorld(t))
	queues := &fakesqs.Server{}
	queues.CreateQueue("", "backlogged", nil)
	router := publish.NewRouter(brokers.Publishers(brokersOf(fakeAccount(t, queues), webhook.Options{}))...)
	require.NoError(t, router.Err())
	s.serve(s.pool, router)
	s.backlog(20_000)
	s.begin()
	s.eventually(func() bool { return s.number("state = 'delivered'") > 1000 },
		func() string { return "nothing is delivered" })
	before := len(queues.Messages("", "backlogged"))
	queues.DeleteQueue("", "backlogged")
	s.eventually(func() bool { return s.says(`SELECT coalesce(bool_or(ended = 'failing'), false) FROM outbox.streams`) },
		func() string { return "the stream goes on" })
	require.Zero(t, s.number("state NOT IN ('pending', 'delivered')"))
	require.Positive(t, s.number("state = 'pending'"))
	require.Zero(t, s.number("streamed AND state = 'pending'"))
	delivered := s.number("state = 'delivered'")
	require.GreaterOrEqual(t, delivered, before)
	queues.CreateQueue("", "backlogged", nil)
	s.exec(`DELETE FROM outbox.destinations`) // as its probe does after a while
	s.exec(`UPDATE outbox.messages SET retrying = false, started = false, parked = false, available_at = now()
	         WHERE state = 'pending'`)
	s.begin()
	s.untilDelivered(20_000)
	require.Len(t, queues.Messages("", "backlogged"), 20_000-delivered, "each once")
}

// poisonVariable has the test binary be a process that streams: the table that it names. It dies when
// it is to publish the poison.
const poisonVariable = "OUTFLOW_TEST_POISON"

// A payload kills each process that publishes it. The pages of its neighbours shrink, until it is left
// to be delivered alone, where it ends dead. All others are delivered.
func TestPayloadThatKillsItsStream(t *testing.T) {
	if url := os.Getenv(poisonVariable); url != "" {
		dieOfPoison(t, url)
		return
	}
	t.Parallel()
	s := newStreams(newWorld(t))
	const n = 6000
	s.backlog(n)
	s.exec(`UPDATE outbox.messages SET payload = 'poison'
	         WHERE id = (SELECT id FROM outbox.messages ORDER BY available_at OFFSET 1234 LIMIT 1)`)
	s.begin()
	ageing := time.NewTicker(time.Second)
	defer ageing.Stop()
	go func() {
		for range ageing.C {
			_, _ = s.pool.Exec(context.Background(), `UPDATE outbox.pages SET claimed_at = claimed_at - interval '1 minute',
				overdue_at = overdue_at - interval '10 seconds'`)
		}
	}()
	kills := 0
	for s.number("state = 'pending' AND claims < 5") > 0 {
		require.Less(t, kills, 5, "its page shrinks")
		child := exec.Command(os.Args[0], "-test.run", "^TestPayloadThatKillsItsStream$", "-test.timeout", "2m")
		child.Env = append(os.Environ(), poisonVariable+"="+s.pool.Config().ConnString(),
			"OUTFLOW_TEST_OUTBOX="+s.opts.Outbox, "OUTFLOW_TEST_DATABASE="+s.pool.Config().ConnConfig.Database)
		out, err := child.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 66 {
			require.NoError(t, err, "%s", out)
			break // it was drained
		}
		kills++
		t.Logf("kill %d: %d delivered; pages: %s", kills, s.number("state = 'delivered'"), s.pages())
	}
	require.Equal(t, 3, kills)
	quarantined := s.number("claims = 5 AND state = 'pending'")
	require.LessOrEqual(t, quarantined, 20)
	require.Equal(t, n-quarantined, s.number("state = 'delivered'"))
	require.Equal(t, 1, s.number("claims = 5 AND payload = 'poison'"), "it is among them")
}

func (s *streams) pages() (sizes string) {
	s.Helper()
	require.NoError(s, s.pool.QueryRow(s.Context(),
		`SELECT coalesce(string_agg(messages::text, ' ' ORDER BY claimed_at), 'none') FROM outbox.pages`).Scan(&sizes))
	return sizes
}

// dieOfPoison serves streams, and exits with 66 at the poison.
func dieOfPoison(t *testing.T, url string) {
	config, err := pgxpool.ParseConfig(url)
	require.NoError(t, err)
	config.ConnConfig.Database = os.Getenv("OUTFLOW_TEST_DATABASE")
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	w := newWorldOn(t, pool, os.Getenv("OUTFLOW_TEST_OUTBOX"))
	s := newStreams(w)
	s.queue.answer = func(m outflow.Message) error {
		if string(m.Payload) == "poison" {
			os.Exit(66)
		}
		return nil
	}
	s.serve(pool, s.queue)
	_ = s.client.GetWorkflow(t.Context(), s.execution().GetWorkflowId(), "").Get(t.Context(), nil)
}
