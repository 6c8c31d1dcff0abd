package outboxdb

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
)

// listTimeout bounds one page: a filter that no index knows may have to pass over
// many rows before it has found enough.
const listTimeout = 30 * time.Second

// ListFilter says which messages to list. It also decides their order, so that
// each list is read along an index:
//
//   - no state: by ID, from the highest; IDs that Enqueue made start with the time
//   - a final state: by the time of the end, newest first
//   - pending: those that may be claimed, by destination and the time since when; then
//     those that wait for a time (leased, delayed, put back), the soonest first
//   - retrying: by destination, then by ID
type ListFilter struct {
	// State is empty for any.
	State    outflow.State
	Retrying bool
	// Dismissed lists dismissed messages alone, Undismissed leaves them out.
	Dismissed, Undismissed bool
	Destination            string // canonical
	Type                   string
	// Callback is empty for any.
	Callback outbox.CallbackState
	// Since and Until bound the end of final messages and the enqueue of pending
	// ones; they want a state. An Ago counts back from the database's now.
	Since, Until Moment
	// After is where the last page stopped; empty for the first one.
	After string
	Limit int
}

// Moment is a time, or how long ago something was by the database's clock.
type Moment struct {
	At  time.Time
	Ago time.Duration
	Set bool
}

// ErrCursor says that a cursor is none, or one of another list.
var ErrCursor = errors.New("wants the cursor that the page before printed, with the same filters")

// List returns a page of messages and, where there may be more, the cursor of
// the next one. Pending messages move while they are delivered: pages of them
// show each at its place of that moment.
func (o *Operator) List(ctx context.Context, f ListFilter) (page []Standing, next string, err error) {
	queries, err := listQueries(f)
	if err != nil {
		return nil, "", fmt.Errorf("listing messages: %w", err)
	}
	order := ""
	err = pgx.BeginTxFunc(ctx, o.pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, fmt.Sprintf(`SET LOCAL statement_timeout = %d`, listTimeout.Milliseconds())); err != nil {
			return err
		}
		for _, q := range queries {
			rows, err := tx.Query(ctx, q.statement(f.Limit+1-len(page)), q.args...)
			if err != nil {
				return err
			}
			some, err := pgx.CollectRows(rows, pgx.RowToStructByName[Standing])
			if err != nil {
				return err
			}
			if len(page) < f.Limit && len(some) > 0 { // else its one row is the next page's
				order = q.order
			}
			if page = append(page, some...); len(page) > f.Limit {
				return nil
			}
		}
		return nil
	})
	if err != nil {
		return nil, "", fmt.Errorf("listing messages: %w", err)
	}
	if len(page) > f.Limit {
		page = page[:f.Limit]
		next = cursorAt(order, page[f.Limit-1]).String()
	}
	return page, next, nil
}

// The orders of a list; a cursor holds its list's.
const (
	orderID        = "id"
	orderFinished  = "finished"
	orderAvailable = "available"
	orderParked    = "parked"
	orderRetrying  = "retrying"
)

// listQuery gathers the conditions of a list. Only those that are asked for are
// in the statement: a condition that may be off would keep the planner from its
// index.
type listQuery struct {
	order string
	where []string
	args  []any
}

// listQueries are the parts of a list, in order, from where the last page stopped.
func listQueries(f ListFilter) ([]*listQuery, error) {
	queries := []*listQuery{newListQuery(f, false)}
	if f.State == outflow.Pending && !f.Retrying {
		queries = append(queries, newListQuery(f, true))
	}
	if f.After == "" {
		return queries, nil
	}
	c, err := readCursor(f.After)
	at := slices.IndexFunc(queries, func(q *listQuery) bool { return q.order == c.Order })
	if err != nil || at < 0 {
		return nil, ErrCursor
	}
	queries[at].after(c)
	return queries[at:], nil
}

// newListQuery begins a list; parked says which part of the pending messages.
func newListQuery(f ListFilter, parked bool) *listQuery {
	q := &listQuery{order: orderID}
	clock := ""
	switch {
	case f.Retrying:
		q.order, clock = orderRetrying, "m.enqueued_at"
		q.where = append(q.where, "m.retrying")
	case f.State == outflow.Pending && parked:
		q.order, clock = orderParked, "m.enqueued_at"
		q.where = append(q.where, "m.state = 'pending' AND m.parked")
	case f.State == outflow.Pending:
		q.order, clock = orderAvailable, "m.enqueued_at"
		q.where = append(q.where, "m.state = 'pending' AND NOT m.parked")
	case f.State != "":
		q.order, clock = orderFinished, "m.finished_at"
		q.add("m.state = %s::text AND m.finished_at IS NOT NULL", f.State)
	}
	if f.Dismissed {
		q.where = append(q.where, "m.dismissed_at IS NOT NULL")
	}
	if f.Undismissed {
		q.where = append(q.where, "m.dismissed_at IS NULL")
	}
	if f.Destination != "" {
		q.add("m.destination = %s::text", f.Destination)
	}
	if f.Type != "" {
		q.add("m.type = %s::text", f.Type)
	}
	switch f.Callback {
	case "":
	case outbox.CallbackDue: // as its index says it
		q.where = append(q.where, "m.callback_state = 'due'")
	default:
		q.add("m.callback_state = %s::text", f.Callback)
	}
	for _, bound := range []struct {
		Moment
		compare string
	}{{f.Since, ">="}, {f.Until, "<"}} {
		switch {
		case !bound.Set || clock == "":
		case bound.At.IsZero():
			q.add(clock+" "+bound.compare+" now() - %s::interval", bound.Ago)
		default:
			q.add(clock+" "+bound.compare+" %s::timestamptz", bound.At)
		}
	}
	return q
}

// add adds a condition whose %s are its parameters.
func (q *listQuery) add(condition string, args ...any) {
	var places []any
	for _, arg := range args {
		q.args = append(q.args, arg)
		places = append(places, fmt.Sprintf("$%d", len(q.args)))
	}
	q.where = append(q.where, fmt.Sprintf(condition, places...))
}

// after goes on behind a cursor. The index has no ID: the plain comparison is for
// it, the one of the whole key for rows that share a place.
func (q *listQuery) after(c cursor) {
	switch q.order {
	case orderID:
		q.add("m.id < %s::uuid", c.ID)
	case orderFinished:
		q.add("m.finished_at <= %s::timestamptz AND (m.finished_at, m.id) < (%s::timestamptz, %s::uuid)", c.At, c.At, c.ID)
	case orderAvailable:
		q.add("(m.destination, m.available_at) >= (%s::text, %s::timestamptz)", c.Destination, c.At)
		q.add("(m.destination, m.available_at, m.id) > (%s::text, %s::timestamptz, %s::uuid)", c.Destination, c.At, c.ID)
	case orderParked:
		q.add(secondOf+" >= %s::timestamptz - interval '1 second' AND (m.available_at, m.id) > (%s::timestamptz, %s::uuid)", c.At, c.At, c.ID)
	case orderRetrying:
		q.add("(m.destination, m.id) > (%s::text, %s::uuid)", c.Destination, c.ID)
	}
}

func (q *listQuery) statement(limit int) string {
	where := ""
	if len(q.where) > 0 {
		where = " WHERE " + strings.Join(q.where, " AND ")
	}
	return "SELECT " + standingColumns + " FROM outbox.messages AS m" + where + " ORDER BY " + map[string]string{
		orderID:        "m.id DESC",
		orderFinished:  "m.finished_at DESC, m.id DESC",
		orderAvailable: "m.destination, m.available_at, m.id",
		orderParked:    secondOf + ", m.available_at, m.id",
		orderRetrying:  "m.destination, m.id",
	}[q.order] + fmt.Sprintf(" LIMIT %d", limit)
}

// cursor is the place of a list's row.
type cursor struct {
	Order       string    `json:"o"`
	Destination string    `json:"d,omitempty"`
	At          time.Time `json:"t,omitzero"`
	ID          uuid.UUID `json:"i"`
}

func cursorAt(order string, s Standing) cursor {
	c := cursor{Order: order, ID: s.ID}
	switch order {
	case orderFinished:
		c.At = deref(s.FinishedAt)
	case orderAvailable:
		c.Destination, c.At = s.Destination, s.AvailableAt
	case orderParked:
		c.At = s.AvailableAt
	case orderRetrying:
		c.Destination = s.Destination
	}
	return c
}

func (c cursor) String() string {
	encoded, _ := json.Marshal(c) // strings and a time between the years 2000 and 9999
	return base64.RawURLEncoding.EncodeToString(encoded)
}

func readCursor(s string) (cursor, error) {
	var c cursor
	decoded, err := base64.RawURLEncoding.DecodeString(s)
	if err == nil {
		err = json.Unmarshal(decoded, &c)
	}
	return c, err
}
