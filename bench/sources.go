package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outboxdb"
)

// source is how a variant gets its rows, and how they say what became of them.
type source struct {
	tables string // with commas between
	// insert writes a row for each body, for a queue, in one transaction, and returns the IDs.
	insert func(ctx context.Context, tx pgx.Tx, queue string, bodies []string) ([]string, error)
	// left is whether a row is not delivered yet.
	left string
	// times counts the rows since $1 that were delivered, and the seconds from the first claim to
	// the last of them, by the database's clock. Empty means that the rows of the variant don't say
	// it, or not in the same way as others': the time is then from the commit to the look that finds
	// nothing left.
	times string
}

// byArrival reports whether the queue service says when all messages have arrived.
func (s source) byArrival() bool { return s.times == "" }

// source is where a variant's rows are.
func (w *world) source(variant string) source {
	switch variant {
	case stream:
		s := sources[tracked]
		s.times = ""
		return s
	case riverPeer:
		return riverSource
	case dbosPeer:
		return dbosSource(w.dbos)
	case watermillPeer:
		return watermillSource()
	}
	return sources[variant]
}

var sources = map[string]source{
	naive: naiveSource, naiveEager: naiveSource,
	tracked: {
		tables: "outbox.messages", insert: insertMessages,
		left: `SELECT EXISTS (SELECT FROM outbox.messages WHERE state = 'pending')`,
		// A claim sets available_at to its lease's end, one minute by default, and nothing on the
		// fast path moves it.
		times: `SELECT count(*) FILTER (WHERE state = 'delivered' AND claims = 1 AND attempts = 1),
		               extract(epoch FROM max(finished_at) - min(available_at - interval '1 minute'))::float8
		          FROM outbox.messages WHERE enqueued_at >= $1`,
	},
}

var naiveSource = source{
	tables: "naive.outbox", insert: insertNaive,
	left: `SELECT EXISTS (SELECT FROM naive.outbox WHERE sent_at IS NULL)`,
	times: `SELECT count(sent_at), extract(epoch FROM max(sent_at) - min(started_at))::float8
	          FROM naive.outbox WHERE created_at >= $1`,
}

// enqueuedAtOnce is how many messages one call enqueues: it takes 64 MiB, and the largest have 200 KiB.
const enqueuedAtOnce = 300

// messageType is that of every message.
const messageType = "order-placed"

// payload is a small event, as most are.
func payload(i int) string {
	return fmt.Sprintf(`{"event":"order-placed","number":%d,"customer":"%s","lines":[%s]}`, i, uuid.NewString(),
		strings.TrimSuffix(strings.Repeat(`{"sku":"A-1000","quantity":2},`, 4), ","))
}

// load is a backlog.
type load struct {
	messages int
	size     int // of each payload in bytes; 0 is that of an event
}

func (l load) bodies() []string {
	all := make([]string, 0, l.messages)
	for i := range l.messages {
		if l.size == 0 {
			all = append(all, payload(i))
			continue
		}
		all = append(all, sized(l.size))
	}
	return all
}

// sized is a JSON document of that many bytes.
func sized(bytes int) string {
	if bytes < 2 {
		return "1"
	}
	return `"` + strings.Repeat("x", bytes-2) + `"`
}

func insertMessages(ctx context.Context, tx pgx.Tx, queue string, bodies []string) ([]string, error) {
	texts := make([]string, 0, len(bodies))
	for chunk := range slices.Chunk(bodies, enqueuedAtOnce) {
		messages := make([]outflow.Message, 0, len(chunk))
		for _, body := range chunk {
			messages = append(messages,
				outflow.Message{Destination: "sqs://" + queue, Type: messageType, Payload: []byte(body)})
		}
		ids, err := outboxdb.Enqueue(ctx, tx, messages...)
		if err != nil {
			return nil, err
		}
		for _, id := range ids {
			texts = append(texts, id.String())
		}
	}
	return texts, nil
}

func insertNaive(ctx context.Context, tx pgx.Tx, queue string, bodies []string) ([]string, error) {
	rows, ids := make([][]any, 0, len(bodies)), make([]string, 0, len(bodies))
	for _, body := range bodies {
		id := uuid.Must(uuid.NewV7())
		rows, ids = append(rows, []any{id, queue, body}), append(ids, id.String())
	}
	_, err := tx.CopyFrom(ctx, pgx.Identifier{"naive", "outbox"}, []string{"id", "queue", "body"},
		pgx.CopyFromRows(rows))
	return ids, err
}

// enqueue writes a load's rows and commits them, with a call right before the commit. It returns a
// time of the database's clock that is not after any of them.
func (s source) enqueue(ctx context.Context, conn *pgx.Conn, queue string, l load,
	beforeCommit func() error) (time.Time, error) {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return time.Time{}, fmt.Errorf("enqueuing: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	var since time.Time
	if err := tx.QueryRow(ctx, "SELECT now()").Scan(&since); err != nil {
		return since, fmt.Errorf("enqueuing: %w", err)
	}
	if _, err := s.insert(ctx, tx, queue, l.bodies()); err != nil {
		return since, fmt.Errorf("enqueuing %d rows: %w", l.messages, err)
	}
	if beforeCommit != nil {
		if err := beforeCommit(); err != nil {
			return since, err
		}
	}
	if err := tx.Commit(ctx); err != nil {
		return since, fmt.Errorf("enqueuing %d rows: %w", l.messages, err)
	}
	return since, nil
}

// took checks that all rows since then were delivered at the first try, and says how long that
// took.
func (s source) took(ctx context.Context, conn *pgx.Conn, since time.Time, messages int) (float64, error) {
	var delivered int
	var seconds float64
	if err := conn.QueryRow(ctx, s.times, since).Scan(&delivered, &seconds); err != nil {
		return 0, fmt.Errorf("reading when the rows were delivered: %w", err)
	}
	if delivered != messages {
		return 0, fmt.Errorf("reading when the rows were delivered: %d of %d were, at the first try", delivered,
			messages)
	}
	return seconds, nil
}
