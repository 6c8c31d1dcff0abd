package outboxdb

import (
	"context"
	"slices"
	"time"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
)

// What the tests, which live in package outboxdb_test, look at inside.

const (
	StatementClaim           = claim
	StatementPutBack         = putBack
	StatementClaimIsolated   = claimAlone
	StatementTakeProbes      = takeProbes
	StatementCloseAbandoned  = closeAbandoned
	StatementLoadAgain       = loadAgain
	StatementTakeRecovered   = takeRecovered
	StatementNoteFailures    = noteFailures
	StatementDueDestinations = dueDestinations
	StatementUnpark          = unpark
	StatementHoldBack        = holdBack
	StatementGiveBack        = giveBackClaims
	StatementLoad            = load
	StatementRenew           = renew
	StatementFinish          = finish
	StatementYield           = yield
	StatementEnqueue         = enqueueBatch
	StatementRetry           = retryMessages
	StatementRedirect        = redirectMessages
	StatementReschedule      = rescheduleMessages
	StatementRequestCancel   = requestCancel
	StatementEndCancelled    = endCancelled
	StatementRelease         = releaseMessages
	StatementResend          = resendMessages
	StatementStatusNewest    = statusNewest
	StatementDismiss         = dismissMessages
	StatementFailing         = failingTargets
	StatementFailingCallback = failingCallbacks
	StatementBeginCallback   = beginCallback
	StatementNoteCallback    = noteCallback
	StatementTakeCallbacks   = takeCallbacks
	StatementRetryCallbacks  = retryCallbacks
	StatementSetRule         = setCallbackRule
	StatementUnsetRule       = unsetCallbackRule

	WalkDestinations = walkDestinations
	RememberedDue    = rememberedDue
	RememberedServed = rememberedServed
	WalkAtLeast      = walkAtLeast
	LeaseMargin      = leaseMargin
	MaxEnqueueBytes  = maxEnqueueBytes
)

// Statements are those that the package sends; a list's is put together.
var Statements = []string{
	enqueueBatch, schemaReady, dueDestinations, shutBreakers, claim, claimAlone, giveBackClaims, load, loadAgain, loadPayloads, loadOutcomes,
	renew, finish, yield, putBack, pendingCounts, tableHealth, heldSnapshots,
	noteFailures, noteSuccess, noteReached, reachedBefore, unpark, holdBack, closeAbandoned, takeProbes, giveBackProbe, free, takeRecovered, forgetRecovered, retryingOf,
	purge, move, purgeByHand, moveByHand, purgeAudit, purgeDestinations,
	beginCallback, noteCallback, takeCallbacks,
	retryMessages, redirectMessages, rescheduleMessages, requestCancel, endCancelled, releaseMessages, resendMessages, retryCallbacks,
	noteSent, noteTold, showMessage, messagePayload, auditOf, statusPending, statusDead, statusNewest, troubledDestinations, failingTargets, failingCallbacks,
	pendingTargets, health, setCallbackRule, unsetCallbackRule, callbackRules, missingRoles,
}

var (
	StatementPurge          = purge
	StatementMove           = move
	StatementPurgeByHand    = purgeByHand
	StatementMoveByHand     = moveByHand
	StatementPurgeDismissed = purgeDismissed
	StatementMoveDismissed  = moveDismissed

	Interval  = interval
	ErrLocked = errLocked
)

// WalkNext makes the next Claim walk the index, HoldWalk keeps every Claim from it.
func (s *Store) WalkNext() { s.setWalk(time.Time{}) }
func (s *Store) HoldWalk() { s.setWalk(time.Now().Add(time.Hour)) }

func (s *Store) setWalk(at time.Time) {
	s.walk.mu.Lock()
	defer s.walk.mu.Unlock()
	s.walk.next, s.walk.unpark.next, s.walk.unpark.nextAll = at, at, at
}

// HoldUnparking keeps every Claim from looking for parked rows.
func (s *Store) HoldUnparking() {
	s.walk.mu.Lock()
	defer s.walk.mu.Unlock()
	s.walk.unpark.next = time.Now().Add(time.Hour)
}

// NextWalk says when the next walk is due.
func (s *Store) NextWalk() time.Time {
	s.walk.mu.Lock()
	defer s.walk.mu.Unlock()
	return s.walk.next
}

// Remembered are the destinations that the store has marks of, in turn.
func (s *Store) Remembered() (destinations []string, marks []time.Time) {
	s.walk.mu.Lock()
	defer s.walk.mu.Unlock()
	for _, m := range s.walk.marks {
		destinations, marks = append(destinations, m.Destination), append(marks, m.At)
	}
	return destinations, marks
}

// Held is how many claimed messages wait for a run or its end.
func (s *Store) Held() int {
	s.handoff.mu.Lock()
	defer s.handoff.mu.Unlock()
	return len(s.handoff.held)
}

// FinishBatch is one coalesced call of Finish, RenewBatch one of Renew.
func (s *Store) FinishBatch(ctx context.Context, endings ...outbox.Ending) ([]outflow.Outcome, []error) {
	return split(s.finishAll(ctx, slices.Clone(endings)), func(l looked) outflow.Outcome { return l.Outcome() })
}

func (s *Store) RenewBatch(ctx context.Context, renewals ...outbox.Renewal) ([]outbox.Record, []error) {
	return split(s.renewAll(ctx, slices.Clone(renewals)), func(l looked) outbox.Record { return l.Record })
}

func split[T any](all results, convert func(looked) T) (values []T, errs []error) {
	for _, r := range all {
		values, errs = append(values, convert(r.Value)), append(errs, r.Err)
	}
	return values, errs
}

// ListStatements are the statements of a list's first page and of a later one.
func ListStatements(f ListFilter) (statements []string) {
	for _, parked := range []bool{false, true} {
		q := newListQuery(f, parked)
		statements = append(statements, q.statement(1))
		q.after(cursorAt(q.order, Standing{}))
		statements = append(statements, q.statement(1))
	}
	return statements
}

// ListStatement is the statement of a list, with its arguments.
func ListStatement(f ListFilter) (string, []any) {
	queries, err := listQueries(f)
	if err != nil {
		panic(err)
	}
	return queries[0].statement(f.Limit + 1), queries[0].args
}
