package faults

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outflowhq/outflow/devstack/postgres"
	"github.com/outflowhq/outflow/outboxdb/migrate"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

// World is an outbox of its own on a stack: a database, a task queue, an SQS,
// and the links that lead to them.
type World struct {
	Name string // of the outbox, the task queue and the database
	// URL and Pool lead to the database beside the link.
	URL  string
	Pool *pgxpool.Pool
	// Queues is SQS itself; its links may fail, and so may it.
	Queues *fakesqs.Server

	Postgres, Temporal, SQS *Link

	sqs     *httptest.Server
	takes   atomic.Int64
	lateFor atomic.Pointer[lateness]
	tap     atomic.Pointer[func(Sending) func()]
}

// NewWorld makes a world; name is a name of a database.
func NewWorld(ctx context.Context, s *Stack, name string) (_ *World, err error) {
	w := &World{Name: name, URL: s.Application.URL(name), Queues: &fakesqs.Server{AutoCreate: true}}
	defer func() {
		if err != nil {
			w.Close()
		}
	}()
	w.sqs = httptest.NewServer(http.HandlerFunc(w.serveSQS))
	if err := postgres.EnsureDatabase(ctx, s.Application.URL("postgres"), name); err != nil {
		return nil, err
	}
	if w.Pool, err = pgxpool.New(ctx, w.URL); err != nil {
		return nil, fmt.Errorf("opening database %s: %w", name, err)
	}
	if _, err := migrate.Up(ctx, w.Pool); err != nil {
		return nil, err
	}
	for _, link := range []struct {
		name, upstream string
		into           **Link
	}{
		{"postgres", w.Pool.Config().ConnConfig.Host + fmt.Sprintf(":%d", w.Pool.Config().ConnConfig.Port),
			&w.Postgres},
		{"temporal", s.Temporal.Address(), &w.Temporal},
		{"sqs", strings.TrimPrefix(w.sqs.URL, "http://"), &w.SQS},
	} {
		if *link.into, err = NewLink(link.name, link.upstream); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// AnswersIn makes SQS take that long for every answer: half of it before a
// request is handled and half after, where a death of the caller makes a
// duplicate.
func (w *World) AnswersIn(d time.Duration) { w.takes.Store(int64(d)) }

// AnswersLate makes the answers to requests that carry messages to one queue leave
// SQS so much later, each after it has them.
func (w *World) AnswersLate(queue string, by time.Duration) { w.lateFor.Store(&lateness{queue, by}) }

type lateness struct {
	queue string
	by    time.Duration
}

func (w *World) serveSQS(out http.ResponseWriter, r *http.Request) {
	half := time.Duration(w.takes.Load() / 2)
	time.Sleep(half)
	answered, late := w.tapped(r)
	w.Queues.ServeHTTP(out, r)
	time.Sleep(half + late) // a small answer is written when the handler returns
	if answered != nil {
		_ = http.NewResponseController(out).Flush() // nobody may be there any more
		answered()
	}
}

// Env is the whole environment of the programs: every address is that of a link. Nothing of
// this process's own environment reaches them but where programs are.
func (w *World) Env() []string {
	database, _ := url.Parse(w.URL) // it is our own
	database.Host = w.Postgres.Address()
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + os.TempDir(),
		"DATABASE_URL=" + database.String(),
		"TEMPORAL_ADDRESS=" + w.Temporal.Address(), "TEMPORAL_NAMESPACE=default",
		"AWS_REGION=us-east-1", "AWS_ACCESS_KEY_ID=faults", "AWS_SECRET_ACCESS_KEY=faults", "AWS_EC2_METADATA_DISABLED=true",
		"AWS_ENDPOINT_URL_SQS=http://" + w.SQS.Address(),
		"OUTFLOW_OUTBOX=" + w.Name, "OUTFLOW_TASK_QUEUE=" + w.Name, "OUTFLOW_LOG_LEVEL=warn",
	}
}

// Close lets go of everything but the database, which its cluster keeps.
func (w *World) Close() {
	for _, l := range []*Link{w.Postgres, w.Temporal, w.SQS} {
		if l != nil {
			l.Close()
		}
	}
	if w.Pool != nil {
		w.Pool.Close()
	}
	if w.sqs != nil {
		w.sqs.CloseClientConnections()
		w.sqs.Close()
	}
}
