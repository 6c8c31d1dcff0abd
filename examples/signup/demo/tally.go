package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// A stack that keeps its data has the rows of earlier demos: count the new
	// ones, and give people new e-mail addresses.
	lastBefore = `SELECT coalesce((SELECT max(seq) FROM outbox.messages), 0), coalesce((SELECT max(id) FROM users), 0)`

	// The consumer's tables say what it has handled: a line that it printed is lost
	// when it dies before the line is read.
	messagesSince = `SELECT m.id, m.type, m.destination, m.state, m.attempts, coalesce(m.last_error, '') AS last_error,
	(SELECT count(*) FROM inbox.seen s WHERE s.message_id = m.id) AS handled,
	(SELECT count(*) FROM emails e WHERE e.message_id = m.id) AS emails
FROM outbox.messages m WHERE m.seq > $1 ORDER BY m.seq`

	// welcomeEmail is the type of the messages that end in an e-mail.
	welcomeEmail = "welcome-email"
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

// tally is what the table says of this demo's messages, held against what the
// consumer has handled.
type tally struct {
	Enqueued, Delivered, Dead int
	// Missing are those that are not delivered, or that the consumer has not
	// handled exactly once. Their places in the table count from 0.
	Missing []message
}

// complete says that none of the first n is missing.
func (t tally) complete(n int) bool {
	return len(t.Missing) == 0 || t.Missing[0].place >= n
}

type message struct {
	ID          uuid.UUID `db:"id"`
	Type        string    `db:"type"`
	Destination string    `db:"destination"`
	State       string    `db:"state"`
	Attempts    int       `db:"attempts"`
	LastError   string    `db:"last_error"`
	Handled     int       `db:"handled"`
	Emails      int       `db:"emails"`

	place int
}

// once says that the message has had its effect, and had it once.
func (m message) once() bool {
	emails := 0
	if m.Type == welcomeEmail {
		emails = 1
	}
	return m.State == "delivered" && m.Handled == 1 && m.Emails == emails
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
	for place, m := range messages {
		switch m.State {
		case "delivered":
			t.Delivered++
		case "dead":
			t.Dead++
		}
		if !m.once() {
			m.place = place
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
		line := fmt.Sprintf("  %s  %s to %s: state %s, attempts %d, handled %d times, %d e-mails",
			m.ID, m.Type, m.Destination, m.State, m.Attempts, m.Handled, m.Emails)
		if m.LastError != "" {
			line += "; last error: " + m.LastError
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}
