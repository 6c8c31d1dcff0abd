// Package inbox is the consumer's side: a message that is delivered at least
// once has its effect once.
//
// The invariant: a message ID is in inbox.seen if and only if the transaction
// of its effect has committed.
//
// A consumer calls [Once] first thing in the transaction in which it does its
// work, in its own database, and skips the work where the answer is false. It
// takes the message off the queue after the commit. Whatever fails before the
// commit leaves neither the effect nor the ID, and the message comes again;
// whatever fails after it leaves both, and the message that comes again is
// skipped.
//
// This holds for effects in that database. An e-mail or a call to another
// service can't be rolled back: do those from an outbox of the consumer's own,
// or with the message ID as their idempotency key.
//
// # How long IDs must be kept
//
// Longer than any copy of the message can still arrive, counted from when it was
// first handled; [Purge] forgets the others. A copy can be as old as:
//
//   - The queue keeps it: in SQS 4 days by default and 14 at most. A dead-letter
//     queue goes on counting, but that of a FIFO queue starts anew, and so does
//     every redrive, under a new SQS message ID; Outflow's stays the same.
//     https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/setting-up-dead-letter-queue-retention.html
//     https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-configure-dead-letter-queue-redrive.html
//   - An operator's "outflow retry": a dead message is sent again under the SAME
//     message ID, days or months later. Where an earlier attempt had reached the
//     queue after all, its answer lost, the message has had its effect, and the
//     retry is to be skipped. That works while the ID is here. Dead messages are
//     kept for ever unless OUTFLOW_KEEP_DEAD says otherwise, so this is a rule for
//     people: retry nothing that is older than what the consumers remember.
//
// 60 days cover one sending with one redrive (28 days, or 56 on FIFO queues), and
// on standard queues a retry within the month, too.
//
// The other side of the same rule: a message whose ID is here is never handled
// again, however it is sent. To have it handled again on purpose, use "outflow
// resend", which sends a copy under a new ID, or delete its row in inbox.seen.
package inbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// note writes nothing where the ID is there already. A transaction that wrote
// the same ID and is still open is waited for, which no SELECT would do. It names
// no conflict target: that would ask for the right to read the table. The cast is
// for drivers that send every string as text.
const note = `INSERT INTO inbox.seen (consumer, message_id) VALUES ($1, $2::uuid) ON CONFLICT DO NOTHING`

// InputError is bad input. Nothing was sent to the database, and the transaction
// can go on.
type InputError struct {
	Field string
	Wants string
}

func (e *InputError) Error() string { return e.Field + ": " + e.Wants }

// Once notes in the caller's transaction that consumer has handled the message,
// and reports whether this is the first time. It never commits: the ID is noted
// if and only if tx commits. Twice in one transaction, the second answer is false.
//
// consumer names the effect, not the process: replicas of one consumer share a
// name, and two consumers of the same message have one each. It is 1 to 200
// letters, digits or any of ". _ : / -", the first a letter or digit. messageID
// is Outflow's, never the broker's.
//
// Where another transaction has noted the same ID and is still open, Once waits
// for its end:
//
//   - It rolls back: the answer is true, at every isolation level.
//   - It commits, and tx is READ COMMITTED (Postgres's default): false.
//   - It commits, and tx is REPEATABLE READ or SERIALIZABLE: an error with
//     SQLSTATE 40001 (serialization_failure), since the snapshot of tx is older
//     than the row. Roll back; the next delivery, or the same work in a new
//     transaction, gets false. The same holds without a wait where the row was
//     committed after the first statement of tx.
//
// An [*InputError] leaves tx usable. Any other error is the database's and has
// ended tx. A transaction that handles several messages should take them in the
// order of their IDs: otherwise two of them can deadlock, and Postgres ends one
// (SQLSTATE 40P01).
func Once(ctx context.Context, tx pgx.Tx, consumer string, messageID uuid.UUID) (first bool, err error) {
	if err := check(consumer, messageID); err != nil {
		return false, err
	}
	tag, err := tx.Exec(ctx, note, consumer, messageID.String())
	if err != nil {
		return false, explain(consumer, messageID, err)
	}
	return tag.RowsAffected() == 1, nil
}

// OnceSQL is [Once] in a transaction of database/sql, with any driver for
// Postgres: the same statement, the same errors.
func OnceSQL(ctx context.Context, tx *sql.Tx, consumer string, messageID uuid.UUID) (first bool, err error) {
	if err := check(consumer, messageID); err != nil {
		return false, err
	}
	result, err := tx.ExecContext(ctx, note, consumer, messageID.String())
	if err != nil {
		return false, explain(consumer, messageID, err)
	}
	rows, err := result.RowsAffected()
	if err != nil {
		return false, explain(consumer, messageID, err)
	}
	return rows == 1, nil
}

// consumerName is the table's rule, too.
var consumerName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}$`)

func check(consumer string, messageID uuid.UUID) error {
	if err := checkConsumer(consumer); err != nil {
		return fmt.Errorf("noting a message as seen: %w", err)
	}
	if messageID == uuid.Nil {
		return fmt.Errorf("noting a message as seen: %w", &InputError{"message ID", "wants the UUID of a message (got the zero UUID)"})
	}
	return nil
}

func checkConsumer(consumer string) error {
	if consumerName.MatchString(consumer) {
		return nil
	}
	got := fmt.Sprintf("%.60q", consumer)
	if len(consumer) > 200 {
		got = fmt.Sprintf("%d bytes", len(consumer))
	}
	return &InputError{"consumer", `wants 1 to 200 letters, digits or any of ". _ : / -", the first a letter or digit (got ` + got + ")"}
}

// undefinedTable is its SQLSTATE.
const undefinedTable = "42P01"

func explain(consumer string, messageID uuid.UUID, err error) error {
	doing := fmt.Sprintf("noting message %s as seen by %s", messageID, consumer)
	var answer interface{ SQLState() string } // pgx's errors and lib/pq's
	if errors.As(err, &answer) && answer.SQLState() == undefinedTable {
		doing += ": this database wants the migrations (package inbox/migrate)"
	}
	return fmt.Errorf("%s: %w", doing, err)
}
