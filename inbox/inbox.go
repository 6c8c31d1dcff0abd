// Package inbox is the consumer's side: a message that is delivered at least once has its effect
// once.
//
//	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
//		first, err := inbox.Once(ctx, tx, "points", messageID)
//		if err != nil || !first {
//			return err
//		}
//		return givePoints(ctx, tx) // the effect, in the same transaction
//	})
//	// delete the message from the queue
//
// The invariant: a message ID is in inbox.seen if and only if the transaction of its effect has
// committed. A failure before the commit leaves neither, and the message is handled when it comes
// again. A failure after the commit leaves both, and the message is skipped.
//
// This holds for effects in that database. An e-mail or a call to another service can't be rolled
// back. Send those from an outbox of the consumer's own, or with the message ID as their
// idempotency key.
//
// Package inbox/migrate creates the table; its files are plain SQL for any other tool.
//
// # How long to keep IDs
//
// Keep an ID longer than any copy of the message can arrive, counted from its first handling.
// [Purge] deletes older ones. Copies arrive late for two reasons:
//
//   - The queue keeps them: SQS 4 days by default, 14 at most. A dead-letter queue of a standard
//     queue goes on counting. That of a FIFO queue starts again from zero, as every redrive does. A
//     redrive gives a new SQS message ID; Outflow's stays the same.
//     https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/setting-up-dead-letter-queue-retention.html
//     https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-configure-dead-letter-queue-redrive.html
//   - An operator runs "outflow retry": a dead message is sent again under the same message ID,
//     days or months later. An earlier attempt may have reached the queue without its answer
//     reaching Outflow. The retry is skipped as long as the ID is here. Dead messages are kept
//     forever by default (OUTFLOW_KEEP_DEAD). So retry no message that is older than the IDs that
//     its consumers keep.
//
// 60 days cover one delivery with one redrive (28 days, or 56 on FIFO queues). On standard queues
// they also cover a retry within a month.
//
// A message whose ID is here is never handled again, however it is sent. To handle it again, use
// "outflow resend", which sends a copy under a new ID, or delete its row in inbox.seen.
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

// noteSQL writes nothing where the ID exists. It waits for an open transaction that has
// written the same ID, which a SELECT would not do. It names no conflict target: that would
// need the right to read the table. The cast is for drivers that send strings as text.
const noteSQL = `INSERT INTO inbox.seen (consumer, message_id) VALUES ($1, $2::uuid) ON CONFLICT DO NOTHING`

// InputError is bad input. Nothing was sent to the database, and the transaction can go on.
type InputError struct {
	Field string // the argument, such as "consumer"
	Wants string // the rule that it breaks, and what was given
}

func (e *InputError) Error() string { return e.Field + ": " + e.Wants }

// Once writes in the caller's transaction that consumer has handled the message, and reports
// whether this is the first time. It never commits: the ID is kept if and only if tx commits.
// Twice in one transaction, the second call returns false.
//
// consumer names the effect, not the process. Replicas of one consumer share a name; two
// consumers of the same message have one each. It is 1 to 200 letters, digits or any of
// ". _ : / -", the first a letter or digit. messageID is Outflow's, never the broker's.
//
// If another transaction has written the same ID and is still open, Once waits for its end:
//
//   - It rolls back: Once returns true, at every isolation level.
//   - It commits, and tx is READ COMMITTED (Postgres's default): Once returns false.
//   - It commits, and tx is REPEATABLE READ or SERIALIZABLE: Once returns an error with
//     SQLSTATE 40001 (serialization_failure), because the snapshot of tx is older than the
//     row. Roll back: Once returns false in a new transaction, or at the next delivery. The
//     same error comes without a wait if the row was committed after tx's first statement.
//
// An [*InputError] leaves tx usable. Any other error is the database's and has ended tx. A
// transaction that handles several messages should take them in the order of their IDs:
// otherwise two transactions can deadlock, and Postgres ends one (SQLSTATE 40P01).
func Once(ctx context.Context, tx pgx.Tx, consumer string, messageID uuid.UUID) (first bool, err error) {
	if err := check(consumer, messageID); err != nil {
		return false, err
	}
	tag, err := tx.Exec(ctx, noteSQL, consumer, messageID.String())
	if err != nil {
		return false, explain(consumer, messageID, err)
	}
	return tag.RowsAffected() == 1, nil
}

// OnceSQL is [Once] in a transaction of database/sql, with any driver for Postgres. The
// statement and the errors are the same.
func OnceSQL(ctx context.Context, tx *sql.Tx, consumer string, messageID uuid.UUID) (first bool, err error) {
	if err := check(consumer, messageID); err != nil {
		return false, err
	}
	result, err := tx.ExecContext(ctx, noteSQL, consumer, messageID.String())
	if err != nil {
		return false, explain(consumer, messageID, err)
	}
	rows, err := result.RowsAffected()
	if err != nil {
		return false, explain(consumer, messageID, err)
	}
	return rows == 1, nil
}

// consumerName is a rule of the table inbox.seen, too.
var consumerName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}$`)

func check(consumer string, messageID uuid.UUID) error {
	if err := checkConsumer(consumer); err != nil {
		return fmt.Errorf("noting a message as seen: %w", err)
	}
	if messageID == uuid.Nil {
		err := &InputError{"message ID", "wants the UUID of a message (got the zero UUID)"}
		return fmt.Errorf("noting a message as seen: %w", err)
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
	wants := `wants 1 to 200 letters, digits or any of ". _ : / -", the first a letter or digit (got ` + got + ")"
	return &InputError{"consumer", wants}
}

// undefinedTable is a SQLSTATE.
const undefinedTable = "42P01"

func explain(consumer string, messageID uuid.UUID, err error) error {
	doing := fmt.Sprintf("noting message %s as seen by %s", messageID, consumer)
	var answer interface{ SQLState() string } // pgx's error, and lib/pq's
	if errors.As(err, &answer) && answer.SQLState() == undefinedTable {
		doing += ": this database wants the migrations (package inbox/migrate)"
	}
	return fmt.Errorf("%s: %w", doing, err)
}
