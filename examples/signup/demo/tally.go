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
	// A stack that keeps its data has the rows of earlier demos. Only newer rows count, and
	// people get new e-mail addresses.
	lastBefore = `SELECT coalesce((SELECT max(seq) FROM outbox.messages), 0), coalesce((SELECT max(id) FROM users), 0)`

	// The consumer's tables, and the workflow's, show what they have handled. A line that they
	// printed is lost if they end before the line is read.
	messagesSince = `SELECT m.id, m.type, m.destination, m.state, m.attempts, coalesce(m.last_error, '') AS last_error,
	(SELECT count(*) FROM inbox.seen s WHERE s.message_id = m.id) AS handled,
	(SELECT count(*) FROM emails e WHERE e.message_id = m.id) AS emails,
	(SELECT count(*) FROM welcomes w WHERE w.message_id = m.id) AS welcomes
FROM outbox.messages m WHERE m.seq > $1 ORDER BY m.seq`

	// welcomeEmail is the type of the messages that end in an e-mail, welcomeUser that of those
	// that start a workflow.
	welcomeEmail = "welcome-email"
	welcomeUser  = "welcome-user"
)

// before has the last IDs of the tables when the demo began.
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

// tally compares this demo's messages with what the consumer has handled.
type tally struct {
	Enqueued, Delivered, Dead int
	// Missing are the messages that are not delivered, or that the consumer or the workflow has not
	// handled exactly once.
	Missing []message
}

// complete says that none of the first n messages is missing.
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
	Welcomes    int       `db:"welcomes"`

	place int // in the order of the table, from 0
}

// handledOnce says that the message was delivered and has had its effect once.
func (m message) handledOnce() bool {
	want := message{Handled: 1}
	switch m.Type {
	case welcomeEmail:
		want.Emails = 1
	case welcomeUser:
		want = message{Welcomes: 1}
	}
	return m.State == "delivered" && m.Handled == want.Handled && m.Emails == want.Emails && m.Welcomes == want.Welcomes
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
		if !m.handledOnce() {
			m.place = place
			t.Missing = append(t.Missing, m)
		}
	}
	return t, nil
}

// String is the demo's last line, which scripts read. Its first two counts are equal, and it
// does not end in "missing", if and only if every message has arrived.
func (t tally) String() string {
	line := fmt.Sprintf("demo: %d enqueued, %d delivered, %d dead", t.Enqueued, t.Delivered, t.Dead)
	if len(t.Missing) > 0 {
		line += fmt.Sprintf(", %d missing", len(t.Missing))
	}
	return line
}

// report has a line for each missing message.
func (t tally) report() string {
	var lines []string
	for _, m := range t.Missing {
		line := fmt.Sprintf("  %s  %s to %s: state %s, attempts %d, handled %d times, %d e-mails, %d welcomes",
			m.ID, m.Type, m.Destination, m.State, m.Attempts, m.Handled, m.Emails, m.Welcomes)
		if m.LastError != "" {
			line += "; last error: " + m.LastError
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}
