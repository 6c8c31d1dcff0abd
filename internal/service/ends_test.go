package service

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
	"github.com/outflowhq/outflow/publish/webhook"
)

// lines is a log that a test reads while it is written.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// A message that ends dead is in the log of the starter that ended it: its ID, its
// destination without the query, its type and the reason.
func TestADeadMessageIsInTheLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tx, err := w.pool.Begin(t.Context())
	require.NoError(t, err)
	ids, err := outboxdb.Enqueue(t.Context(), tx,
		outflow.Message{Destination: "sqs://missing", Type: "order-placed", Payload: []byte("{}")})
	require.NoError(t, err)
	require.NoError(t, tx.Commit(t.Context()))

	logged := &lines{}
	c := configOf(w)
	c.Brokers, c.MissingGrace = brokersOf(fakeAccount(t, &fakesqs.Server{}), webhook.Options{}), -1
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Starter(ctx, c, slog.New(slog.NewTextHandler(logged, nil))) }()
	w.until(ids[0], func(r row) bool { return r.State == outflow.Dead })
	want := func(id uuid.UUID) string {
		return `level=WARN msg="a message ended dead" message=` + id.String() +
			` generation=1 destination=sqs://missing type=order-placed reason="`
	}
	w.eventually(func() bool { return bytes.Contains([]byte(logged.String()), []byte(want(ids[0]))) }, logged.String)
	stop()
	require.NoError(t, <-ended)
}
