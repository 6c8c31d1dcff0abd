package outboxdb

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
)

// What the tests, which live in package outboxdb_test, look at inside.

const (
	StatementClaim           = claimSQL
	StatementPutBack         = putBackSQL
	StatementPutBackMissing  = putBackMissingSQL
	StatementEndMissing      = endMissingSQL
	StatementClaimIsolated   = claimIsolatedSQL
	StatementTakeProbes      = takeProbesSQL
	StatementCloseAbandoned  = closeAbandonedSQL
	StatementLoadAgain       = loadAgainSQL
	StatementTakeRecovered   = takeRecoveredSQL
	StatementNoteFailures    = noteFailuresSQL
	StatementDueDestinations = dueDestinationsSQL
	StatementUnpark          = unparkSQL
	StatementHoldBack        = holdBackSQL
	StatementGiveBack        = giveBackSQL
	StatementLoad            = loadSQL
	StatementRenew           = renewSQL
	StatementFinish          = finishSQL
	StatementFinishPage      = finishPageSQL
	StatementMakeWay         = makeWaySQL
	StatementEnqueue         = enqueueSQL
	StatementRequestCancel   = requestCancelSQL
	StatementEndCancelled    = endCancelledSQL
	StatementBeginCallback   = beginCallbackSQL
	StatementNoteCallback    = noteCallbackSQL
	StatementTakeCallbacks   = takeCallbacksSQL
	StatementGauges          = gaugesSQL
	StatementRest            = restSQL
	StatementExpireFollowers = expireFollowersSQL
	StatementClaimPage       = claimPageSQL
	StatementEndPage         = endPageSQL
	StatementLeavePage       = leavePageSQL
	StatementFreePages       = freePagesSQL
	StatementHandOver        = handOverSQL
	StatementWantStreams     = wantStreamsSQL

	WalkDestinations = walkDestinations
	RememberedDue    = maxDueMarks
	RememberedServed = maxServedMarks
	WalkAtLeast      = walkInterval
	LeaseMargin      = leaseMargin
	MaxEnqueueBytes  = maxEnqueueBytes
	ExpiredRows      = expiredRows
)

// Statements are those that the package sends; a list's is put together.
var Statements = []string{
	keepListenerSQL, dropListenerSQL, restSQL, passOnSQL, keepReaderSQL, hintSQL,
	enqueueSQL, schemaReadySQL, dueDestinationsSQL, openBreakersSQL, claimSQL, claimIsolatedSQL, giveBackSQL,
	loadSQL, loadAgainSQL, loadPayloadsSQL, loadOutcomesSQL, renewSQL, finishSQL, makeWaySQL, putBackSQL,
	pendingCountsSQL, tableHealthSQL, heldSnapshotsSQL, noteFailuresSQL, noteSuccessSQL, noteReachedSQL,
	noteSlowSQL, knownSQL, unparkSQL, holdBackSQL, closeAbandonedSQL, takeProbesSQL, endProbeSQL, releaseSQL,
	takeRecoveredSQL, forgetRecoveredSQL, retryingSQL, purgeSQL, moveSQL, purgeByHandSQL, moveByHandSQL,
	purgeAuditSQL, purgeDestinationsSQL, beginCallbackSQL, noteCallbackSQL, takeCallbacksSQL,
	requestCancelSQL, endCancelledSQL, putBackMissingSQL, endMissingSQL, noteUnservedSQL, announceSQL,
	withdrawSQL, servedSQL, deferredSQL, settleSQL, expireFollowersSQL, purgeKeysSQL,
}

// StreamStatements are those of streams.
var StreamStatements = []string{
	claimPageSQL, breakerOpenSQL, finishPageSQL, handOverSQL, endPageSQL, leavePageSQL, freePagesSQL, noteStreamSQL,
	wantStreamsSQL, announceStreamSQL,
}

var (
	StatementPurge          = purgeSQL
	StatementMove           = moveSQL
	StatementPurgeByHand    = purgeByHandSQL
	StatementMoveByHand     = moveByHandSQL
	StatementPurgeDismissed = purgeDismissedSQL
	StatementMoveDismissed  = moveDismissedSQL

	Interval = interval
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
	return split(s.finishAll(ctx, slices.Clone(endings)), func(r storedRow) outflow.Outcome { return r.Outcome() })
}

func (s *Store) RenewBatch(ctx context.Context, renewals ...outbox.Renewal) ([]outbox.Record, []error) {
	return split(s.renewAll(ctx, slices.Clone(renewals)), func(r storedRow) outbox.Record { return r.Record })
}

func split[T any](all results, convert func(storedRow) T) (values []T, errs []error) {
	for _, r := range all {
		values, errs = append(values, convert(r.Value)), append(errs, r.Err)
	}
	return values, errs
}

// CountEveryLateAnswer has each late answer count, however soon after another.
func (s *Store) CountEveryLateAnswer() { s.breakers.lateBurst = 0 }

// Verdicts are those of enqueue_batch on msgs, in tx.
func Verdicts(t testing.TB, tx pgx.Tx, msgs []outflow.Message, ifAbsent bool) []verdict {
	t.Helper()
	batch, err := encodeBatch(msgs, nil)
	if err != nil {
		t.Fatal(err)
	}
	verdicts, err := pgxQuery(tx)(t.Context(), batch, ifAbsent)
	if err != nil {
		t.Fatal(err)
	}
	return verdicts
}

// LookAgain has the next Claim look for messages whose grace is over, and the next look at the running
// processes read them.
func (s *Store) LookAgain() {
	s.walk.mu.Lock()
	defer s.walk.mu.Unlock()
	s.walk.missing.endAt, s.walk.missing.unserved = time.Time{}, nil
	s.serving.mu.Lock()
	defer s.serving.mu.Unlock()
	s.serving.readAt = time.Time{}
}
