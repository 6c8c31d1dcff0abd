// Package outboxdb is the table outbox.messages: its migrations, the producers'
// Enqueue, and what the dispatcher does with it (Claim, Load, Renew, Finish).
//
// The invariant: a row's end is written once, by a run of the row's own
// generation, and only Delivered may replace another end of that generation.
// Every due time, lease and expiry is decided by the database's clock.
//
// A producer needs Enqueue alone (EnqueueSQL with database/sql), inside its own
// transaction:
//
//	tx, err := pool.Begin(ctx)
//	// … write the business rows with tx …
//	ids, err := outboxdb.Enqueue(ctx, tx, outflow.Message{
//		Destination: "sqs://orders",
//		Type:        "order-placed",
//		Payload:     payload,
//	})
//	err = tx.Commit(ctx)
package outboxdb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outflowhq/outflow/internal/coalesce"
	"github.com/outflowhq/outflow/internal/database"
	"github.com/outflowhq/outflow/outbox"
)

// Bounds of the coalesced statements. 500 rows keep a statement's locks short
// (a few milliseconds); two at a time keep one slow statement from holding up
// the rest; 2 ms of waiting is small beside a broker's answer.
const (
	statementRows    = 500
	statementsAtOnce = 2
	statementLinger  = 2 * time.Millisecond
	// Under load a statement for twenty costs little more than one for two.
	statementBusyLinger = 10 * time.Millisecond
	// statementTimeout is the shared statement's own deadline. It is below the
	// local mark's 2 s, so that a mark is refused rather than left in doubt.
	statementTimeout = 1500 * time.Millisecond
	// payloadBytes bounds the large payloads of one statement: many large ones
	// must not run out of its time together, and again. Two such at once need 50 Mbit/s.
	payloadBytes = 4 << 20
	// payloadTimeout is that of a statement for large payloads whose callers have
	// time, as durable attempts do: 16 MiB need 7 Mbit/s. internal/timing has room
	// for it (PayloadLoad).
	payloadTimeout = 20 * time.Second
)

// Store reads and writes the table for the dispatcher. One Store in a process
// serves its scanner and its workers: what the scanner claimed, the runs of the
// same process take over without a second look at the row. It is safe for
// concurrent use and needs no closing; the pool stays the caller's.
type Store struct {
	pool         *database.Pool
	handoff      *handoff
	walk         walk
	destinations *destinations
	identity     identity

	loads    *coalesce.Coalescer[outbox.Ref, looked]
	reloads  *coalesce.Coalescer[outbox.Ref, looked]
	renewals *coalesce.Coalescer[outbox.Renewal, looked]
	puttings *coalesce.Coalescer[outbox.Renewal, looked]
	endings  *coalesce.Coalescer[outbox.Ending, looked]
	returns  *coalesce.Coalescer[giveBack, struct{}]
	payloads *coalesce.Coalescer[payloadOf, []byte]
	// slowPayloads are for callers who can wait: no fast path stands behind them.
	slowPayloads *coalesce.Coalescer[payloadOf, []byte]
}

// New returns a Store over pool.
func New(pool *pgxpool.Pool) *Store {
	writer := database.NewWriter(pool)
	s := &Store{pool: writer, handoff: newHandoff(), destinations: newDestinations(writer)}
	s.loads = coalesce.New(statementOptions[outbox.Ref](), s.loadAll)
	s.reloads = coalesce.New(statementOptions[outbox.Ref](), s.loadAllAgain)
	s.renewals = coalesce.New(statementOptions[outbox.Renewal](), s.renewAll)
	s.puttings = coalesce.New(statementOptions[outbox.Renewal](), s.putBackAll)
	s.endings = coalesce.New(statementOptions[outbox.Ending](), s.finishAll)
	s.returns = coalesce.New(statementOptions[giveBack](), s.returnAll)
	large := statementOptions[payloadOf]()
	large.MaxBytes, large.Size = payloadBytes, payloadOf.size
	s.payloads = coalesce.New(large, s.loadPayloadsOf)
	large.Timeout = payloadTimeout
	s.slowPayloads = coalesce.New(large, s.loadPayloadsOf)
	return s
}

func statementOptions[In any]() coalesce.Options[In] {
	return coalesce.Options[In]{
		MaxItems: statementRows, Linger: statementLinger, BusyLinger: statementBusyLinger,
		MaxCalls: statementsAtOnce, Timeout: statementTimeout,
	}
}

// Ping reports whether the database answers and has the schema that this build
// needs, whichever tool applied it. The error says what to do.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.pool.Check(ctx); err != nil {
		return fmt.Errorf("checking the database: %w", err)
	}
	var ready bool
	err := s.pool.QueryRow(ctx, schemaReady).Scan(&ready)
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &pg) && pg.Code == "42501": // insufficient_privilege
		return fmt.Errorf("checking the outbox schema: %w: \"outflow grants -dispatcher ROLE\" prints the rights that it needs", err)
	case err != nil:
		return fmt.Errorf("checking the outbox schema: %w", err)
	}
	if !ready {
		return errors.New("checking the outbox schema: it is missing or older than this build: run \"outflow migrate up\"")
	}
	return nil
}
