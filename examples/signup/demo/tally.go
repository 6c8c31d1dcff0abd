package main

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// A stack that keeps its data has the rows of earlier demos: count the new
	// ones, and give people new e-mail addresses.
	lastBefore = `SELECT coalesce((SELECT max(seq) FROM outbox.messages), 0), coalesce((SELECT max(id) FROM users), 0)`

	messagesSince = `SELECT id, type, destination, state, attempts, coalesce(last_error, '') AS last_error
FROM outbox.messages WHERE seq > $1 ORDER BY seq`
)

// before is where the tables stood when the demo began.
type before struct {
	seq   int64
	users int
}

func lookBefore(ctx context.Context, pool *pgxpool.Pool) (b before, err error) {
	if err := pool.QueryRow(ctx, lastBefore).Scan(&b.seq, &b.users); err != nil {
		return b, fmt.Errorf("looking for the last message and user: %w", err)
	}
	return b, nil
}

// arrivals counts the messages that the consumer says it has handled.
type arrivals struct {
	mu    sync.Mutex
	times map[uuid.UUID]int
}

func newArrivals() *arrivals { return &arrivals{times: map[uuid.UUID]int{}} }

// see counts the message ID in a line of the consumer.
func (a *arrivals) see(line string) {
	for _, word := range strings.Fields(line) {
		if id, err := uuid.Parse(word); err == nil {
			a.mu.Lock()
			a.times[id]++
			a.mu.Unlock()
		}
	}
}

func (a *arrivals) of(id uuid.UUID) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.times[id]
}

// tally is what the table says of this demo's messages, held against what the
// consumer has handled.
type tally struct {
	Enqueued, Delivered, Dead int
	// Missing are those that are not delivered, or that the consumer has not
	// handled exactly once.
	Missing []message
}

type message struct {
	ID          uuid.UUID `db:"id"`
	Type        string    `db:"type"`
	Destination string    `db:"destination"`
	State       string    `db:"state"`
	Attempts    int       `db:"attempts"`
	LastError   string    `db:"last_error"`
	Arrived     int       `db:"-"`
}

func (d *demo) tally(ctx context.Context) (t tally, err error) {
	rows, err := d.pool.Query(ctx, messagesSince, d.before.seq)
	if err != nil {
		return t, fmt.Errorf("reading the messages: %w", err)
	}
	messages, err := pgx.CollectRows(rows, pgx.RowToStructByName[message])
	if err != nil {
		return t, fmt.Errorf("reading the messages: %w", err)
	}
	t.Enqueued = len(messages)
	for _, m := range messages {
		m.Arrived = d.arrived.of(m.ID)
		switch m.State {
		case "delivered":
			t.Delivered++
		case "dead":
			t.Dead++
		}
		if m.State != "delivered" || m.Arrived != 1 {
			t.Missing = append(t.Missing, m)
		}
	}
	return t, nil
}

// String is the demo's last line. Scripts look for it: it has this form with two
// equal counts exactly when everything arrived.
func (t tally) String() string {
	line := fmt.Sprintf("demo: %d enqueued, %d delivered, %d dead", t.Enqueued, t.Delivered, t.Dead)
	if len(t.Missing) > 0 {
		line += fmt.Sprintf(", %d missing", len(t.Missing))
	}
	return line
}

// report says of each missing message where it stands.
func (t tally) report() string {
	var lines []string
	for _, m := range t.Missing {
		line := fmt.Sprintf("  %s  %s to %s: state %s, attempts %d, arrivals %d", m.ID, m.Type, m.Destination, m.State, m.Attempts, m.Arrived)
		if m.LastError != "" {
			line += "; last error: " + m.LastError
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}
