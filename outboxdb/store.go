// Package outboxdb is the table outbox.messages: the producers' Enqueue, and what the dispatcher
// does with the table (Claim, Load, Renew, Finish, Observe).
//
// The invariant: a row's end is written once, by a run of the row's own generation, and only
// Delivered may replace another end of that generation. Every due time, lease and expiry is decided
// by the database's clock.
//
// A producer needs Enqueue alone (EnqueueSQL with database/sql), inside its own transaction:
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
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outflowhq/outflow/internal/coalesce"
	"github.com/outflowhq/outflow/internal/database"
	"github.com/outflowhq/outflow/outbox"
)

// Bounds of the coalesced statements. 500 rows keep a statement's locks short (a few milliseconds).
// Two at a time keep a slow statement from holding up the rest. 2 ms of waiting is little beside a
// broker's answer, and gathers what one request to a broker answered. A longer wait under load costs
// more than it saves: Temporal lists a run twice that is open for some 30 ms, and else once.
const (
	statementRows    = 500
	statementsAtOnce = 2
	statementLinger  = 2 * time.Millisecond
	// statementTimeout is the deadline of a coalesced statement. It is below the local mark's 2 s,
	// so that a mark fails rather than being left in doubt.
	statementTimeout = 1500 * time.Millisecond
	// payloadBytes bounds the large payloads of one statement: many of them must not run out of its
	// time together, again and again. Two such statements at once need 50 Mbit/s.
	payloadBytes = 4 << 20
	// payloadTimeout is the deadline of a statement for large payloads whose callers have time, as
	// durable attempts do: 16 MiB need 7 Mbit/s. internal/timing has room for it (PayloadLoad).
	payloadTimeout = 20 * time.Second
)

// Store reads and writes the table for the dispatcher. One Store in a process serves its scanner
// and its workers: the runs of a process take over what its scanner claimed without a second read
// of the row. A Store is safe for concurrent use and needs no closing; the pool stays the caller's.
type Store struct {
	pool     *database.Pool
	handoff  *handoff
	walk     walk
	breakers *breakers
	serving  serving
	identity identity
	released atomic.Pointer[func()] // see OnRelease
	hinting  atomic.Bool            // see hintSoon
	expired  endedMessages          // by ReleaseDeferred; for the next Claim
	blocks   bool                   // a dead head keeps its key; see PassDead

	loads     *coalesce.Coalescer[outbox.Ref, storedRow]
	reloads   *coalesce.Coalescer[outbox.Ref, storedRow]
	renewals  *coalesce.Coalescer[outbox.Renewal, storedRow]
	putBacks  *coalesce.Coalescer[outbox.PutBack, storedRow]
	endings   *coalesce.Coalescer[outbox.Ending, storedRow]
	giveBacks *coalesce.Coalescer[giveBack, struct{}]
	payloads  *coalesce.Coalescer[missingPayload, []byte]
	// slowPayloads are for callers with time: durable attempts.
	slowPayloads *coalesce.Coalescer[missingPayload, []byte]
}

// Option changes what New returns.
type Option func(*Store)

// PassDead has a message that ends dead let the next one of its ordering key go. Otherwise it blocks
// the key until an operator retries, redirects or skips it. Give all processes the same.
func PassDead() Option { return func(s *Store) { s.blocks = false } }

// New returns a Store over pool.
func New(pool *pgxpool.Pool, options ...Option) *Store {
	writer := database.NewWriter(pool)
	s := &Store{pool: writer, handoff: newHandoff(), breakers: newBreakers(writer), blocks: true}
	for _, option := range options {
		option(s)
	}
	s.loads = coalesce.New(statementOptions[outbox.Ref](), s.loadAll)
	s.reloads = coalesce.New(statementOptions[outbox.Ref](), s.loadAllAgain)
	s.renewals = coalesce.New(statementOptions[outbox.Renewal](), s.renewAll)
	s.putBacks = coalesce.New(statementOptions[outbox.PutBack](), s.putBackAll)
	s.endings = coalesce.New(statementOptions[outbox.Ending](), s.finishAll)
	s.giveBacks = coalesce.New(statementOptions[giveBack](), s.giveBackAll)
	large := statementOptions[missingPayload]()
	large.MaxBytes, large.Size = payloadBytes, missingPayload.size
	s.payloads = coalesce.New(large, s.loadPayloads)
	large.Timeout = payloadTimeout
	s.slowPayloads = coalesce.New(large, s.loadPayloads)
	return s
}

func statementOptions[In any]() coalesce.Options[In] {
	return coalesce.Options[In]{
		MaxItems: statementRows, Linger: statementLinger, MaxCalls: statementsAtOnce, Timeout: statementTimeout,
	}
}

// schemaReadySQL looks for the oldest and the newest thing that a migration makes.
const schemaReadySQL = `SELECT to_regclass('outbox.messages') IS NOT NULL
    AND to_regclass('outbox.streams') IS NOT NULL`

// Ping reports whether the database answers and has the schema that this build
// needs, whichever tool applied it. The error says what to do.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.pool.Check(ctx); err != nil {
		return fmt.Errorf("checking the database: %w", err)
	}
	var ready bool
	err := s.pool.QueryRow(ctx, schemaReadySQL).Scan(&ready)
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &pg) && pg.Code == "42501": // insufficient_privilege
		return fmt.Errorf("checking the outbox schema: %w: "+
			"\"outflow grants -dispatcher ROLE\" prints the rights that it needs", err)
	case err != nil:
		return fmt.Errorf("checking the outbox schema: %w", err)
	}
	if !ready {
		return errors.New("checking the outbox schema: it is missing or older than this build: " +
			"run \"outflow migrate up\"")
	}
	return nil
}
