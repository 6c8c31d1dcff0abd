package operator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

// listTimeout bounds one page. Where no index knows the filter, the statement passes over many rows
// before it has found enough.
const listTimeout = 30 * time.Second

// ListFilter says which messages to list. It also decides their order, so that each list is read
// along an index:
//   - no state: by ID, from the highest; an ID that Enqueue made starts with the time
//   - a final state: by the time of the end, newest first
//   - pending: first those that may be claimed, by destination and the time since when; then those
//     that wait for a time (leased, delayed, put back), the soonest first
//   - retrying: by destination, then by ID
type ListFilter struct {
	// State is empty for any.
	State    outflow.State
	Retrying bool
	// Dismissed lists only dismissed messages, Undismissed leaves them out.
	Dismissed, Undismissed bool
	Destination            string // canonical
	Type                   string
	// Group is the ID that an enqueue by route returned; zero for any message.
	Group uuid.UUID
	// Callback is empty for any.
	Callback outbox.CallbackState
	// Since and Until bound the end of final messages and the enqueue of pending ones; they want a
	// state.
	Since, Until TimeBound
	// After is the cursor that the page before returned; empty for the first page.
	After string
	// Limit is how many messages a page has at most.
	Limit int
}

// TimeBound is a time (At), or how long ago by the database's clock (Ago).
type TimeBound struct {
	At  time.Time
	Ago time.Duration
	Set bool
}

// ErrCursor says that List did not return the cursor, or returned it for another list.
var ErrCursor = errors.New("wants the cursor that the page before printed, with the same filters")

// List returns a page of messages and, where there may be more, the cursor of the next page.
// Pending messages move while they are delivered: each page shows them at their place of that
// moment.
func (o *Operator) List(ctx context.Context, f ListFilter) (page []MessageStatus, next string, err error) {
	queries, err := listQueries(f)
	if err != nil {
		return nil, "", fmt.Errorf("listing messages: %w", err)
	}
	order := ""
	err = pgx.BeginTxFunc(ctx, o.pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, fmt.Sprintf(`SET LOCAL statement_timeout = %d`,
			listTimeout.Milliseconds())); err != nil {
			return err
		}
		for _, q := range queries {
			rows, err := tx.Query(ctx, q.statement(f.Limit+1-len(page)), q.args...)
			if err != nil {
				return err
			}
			some, err := pgx.CollectRows(rows, pgx.RowToStructByName[MessageStatus])
			if err != nil {
				return err
			}
			if len(page) < f.Limit && len(some) > 0 { // otherwise its one row is the next page's
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

// listQuery gathers the conditions of a list. The statement has only those that the filter asks
// for: a condition that a parameter turns off would keep the planner from its index.
type listQuery struct {
	order string
	from  string
	where []string
	args  []any
}

// listQueries returns the parts of a list, in order, from where the last page stopped.
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
	q := &listQuery{order: orderID, from: "outbox.messages"}
	clock := ""
	if f.Group != uuid.Nil { // which is few rows: OFFSET keeps the planner from another index
		q.args = append(q.args, f.Group)
		q.from = "(SELECT g.* FROM outbox.messages AS g WHERE g.group_id = $1::uuid OFFSET 0)"
	}
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
		TimeBound
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

// after continues behind a cursor. The index has no ID: the first comparison is for the index, the
// one of the whole key for rows that share a place.
func (q *listQuery) after(c cursor) {
	switch q.order {
	case orderID:
		q.add("m.id < %s::uuid", c.ID)
	case orderFinished:
		q.add("m.finished_at <= %s::timestamptz AND (m.finished_at, m.id) < (%s::timestamptz, %s::uuid)",
			c.At, c.At, c.ID)
	case orderAvailable:
		q.add("(m.destination, m.available_at) >= (%s::text, %s::timestamptz)", c.Destination, c.At)
		q.add("(m.destination, m.available_at, m.id) > (%s::text, %s::timestamptz, %s::uuid)",
			c.Destination, c.At, c.ID)
	case orderParked:
		q.add(outboxdb.SecondOfSQL+" >= %s::timestamptz - interval '1 second'"+
			" AND (m.available_at, m.id) > (%s::timestamptz, %s::uuid)", c.At, c.At, c.ID)
	case orderRetrying:
		q.add("(m.destination, m.id) > (%s::text, %s::uuid)", c.Destination, c.ID)
	}
}

func (q *listQuery) statement(limit int) string {
	where := ""
	if len(q.where) > 0 {
		where = " WHERE " + strings.Join(q.where, " AND ")
	}
	return "SELECT " + statusColumns + " FROM " + q.from + " AS m" + where + " ORDER BY " + map[string]string{
		orderID:        "m.id DESC",
		orderFinished:  "m.finished_at DESC, m.id DESC",
		orderAvailable: "m.destination, m.available_at, m.id",
		orderParked:    outboxdb.SecondOfSQL + ", m.available_at, m.id",
		orderRetrying:  "m.destination, m.id",
	}[q.order] + fmt.Sprintf(" LIMIT %d", limit)
}
