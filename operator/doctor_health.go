package operator

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/outboxdb/migrate"
)

// healthSQL reads the clock, the server and the rights of the role in one look.
const healthSQL = `
SELECT clock_timestamp() AS clock, current_user::text AS role,
       pg_catalog.current_setting('transaction_read_only') = 'on' OR pg_catalog.pg_is_in_recovery() AS read_only,
       pg_catalog.current_setting('server_encoding') AS encoding,
       has_function_privilege('outbox.enqueue_batch(jsonb, boolean)', 'EXECUTE')
           AND has_schema_privilege('outbox', 'USAGE') AS produces,
       has_table_privilege('outbox.messages', 'SELECT') AND has_any_column_privilege('outbox.messages', 'UPDATE')
           AND has_table_privilege('outbox.destinations', 'SELECT')
           AND has_table_privilege('outbox.destinations', 'INSERT')
           AND has_table_privilege('outbox.destinations', 'UPDATE')
           AND has_table_privilege('outbox.processes', 'SELECT') AND has_table_privilege('outbox.processes', 'INSERT')
           AND has_table_privilege('outbox.processes', 'UPDATE') AND has_table_privilege('outbox.processes', 'DELETE')
           AND has_table_privilege('outbox.identity', 'SELECT') AND has_table_privilege('outbox.identity', 'INSERT')
           AND has_function_privilege('outbox.is_destination(text)', 'EXECUTE')
           AND has_function_privilege('outbox.promote(uuid[])', 'EXECUTE')
           AND has_function_privilege('outbox.settle(text, text)', 'EXECUTE')
           AND has_table_privilege('outbox.deferred_releases', 'SELECT')
           AND has_table_privilege('outbox.listeners', 'SELECT') AND has_table_privilege('outbox.listeners', 'INSERT')
           AND has_table_privilege('outbox.listeners', 'UPDATE') AND has_table_privilege('outbox.listeners', 'DELETE')
           AND has_table_privilege('outbox.streams', 'SELECT') AND has_table_privilege('outbox.streams', 'INSERT')
           AND has_table_privilege('outbox.streams', 'UPDATE') AND has_table_privilege('outbox.pages', 'SELECT')
           AND has_table_privilege('outbox.pages', 'INSERT') AND has_table_privilege('outbox.pages', 'UPDATE')
           AND has_table_privilege('outbox.pages', 'DELETE')
           AND has_function_privilege('outbox.hint(integer, boolean, uuid)', 'EXECUTE')
           AND has_function_privilege('outbox.notify_waiters(uuid[])', 'EXECUTE') AS dispatches,
       has_table_privilege('outbox.messages', 'SELECT') AND has_table_privilege('outbox.messages', 'INSERT')
           AND has_table_privilege('outbox.messages', 'UPDATE') AND has_table_privilege('outbox.messages', 'DELETE')
           AND has_table_privilege('outbox.audit', 'SELECT') AND has_any_column_privilege('outbox.audit', 'INSERT')
           AND has_table_privilege('outbox.destinations', 'SELECT')
           AND has_table_privilege('outbox.processes', 'SELECT')
           AND has_table_privilege('outbox.streams', 'SELECT') AND has_table_privilege('outbox.streams', 'INSERT')
           AND has_table_privilege('outbox.streams', 'UPDATE') AND has_table_privilege('outbox.pages', 'SELECT')
           AND has_function_privilege('outbox.is_destination(text)', 'EXECUTE')
           AND has_function_privilege('outbox.display_destination(text)', 'EXECUTE')
           AND has_function_privilege('outbox.promote(uuid[])', 'EXECUTE')
           AND has_function_privilege('outbox.release_moved(uuid[], text[])', 'EXECUTE')
           AND has_function_privilege('outbox.hint(integer, boolean, uuid)', 'EXECUTE')
           AND has_function_privilege('outbox.notify_waiters(uuid[])', 'EXECUTE') AS operates,
       pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE') AS sees_all`

// health is the database as this role and this host see it.
type health struct {
	Clock time.Time `db:"clock"`
	Role  string    `db:"role"`
	// ReadOnly says that the server refuses writes: it is a standby, or
	// default_transaction_read_only is on.
	ReadOnly bool `db:"read_only"`
	// Encoding is that in which the database keeps text.
	Encoding string `db:"encoding"`
	// What the role may do: enqueue, run the daemons, act as an operator.
	Produces   bool `db:"produces"`
	Dispatches bool `db:"dispatches"`
	Operates   bool `db:"operates"`
	// SeesAll says that the server shows this role the age of other roles' snapshots too.
	SeesAll bool `db:"sees_all"`
	// Snapshots are all that sessions, prepared transactions and replication slots hold: vacuum
	// can't remove what these may still see.
	Snapshots []outbox.HeldSnapshot `db:"-"`
}

func (o *Operator) health(ctx context.Context) (health, error) {
	rows, err := o.pool.Query(ctx, healthSQL)
	if err != nil {
		return health{}, fmt.Errorf("looking at the database: %w", err)
	}
	h, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[health])
	if err != nil {
		return health{}, fmt.Errorf("looking at the database: %w", err)
	}
	h.Snapshots, err = outboxdb.HeldSnapshots(ctx, o.pool.Unwrap())
	return h, err
}

// migrations returns every migration, applied or not.
func (o *Operator) migrations(ctx context.Context) ([]migrate.Migration, error) {
	return migrate.Status(ctx, o.pool.Unwrap())
}

// databaseID is zero where nobody has written it: no daemon has worked on the database yet.
func (o *Operator) databaseID(ctx context.Context) (uuid.UUID, error) {
	return outboxdb.FindDatabaseID(ctx, o.pool.Unwrap())
}

// dead counts the dead messages that nobody dismissed, of each destination that has any.
func (o *Operator) dead(ctx context.Context) ([]PhaseCount, error) {
	rows, err := o.pool.Query(ctx, statusDeadSQL)
	if err != nil {
		return nil, fmt.Errorf("counting dead messages: %w", err)
	}
	counts, err := pgx.CollectRows(rows, pgx.RowToStructByName[PhaseCount])
	if err != nil {
		return nil, fmt.Errorf("counting dead messages: %w", err)
	}
	return counts, nil
}

// notifyTimeout is how long receivesNotifications waits for its own notification.
const notifyTimeout = 2 * time.Second

// receivesNotifications reports whether a notification that the pool sends arrives on another of
// its connections. A transaction pooler drops it.
func (o *Operator) receivesNotifications(ctx context.Context) (bool, error) {
	conn, err := o.pool.Acquire(ctx)
	if err != nil {
		return false, fmt.Errorf("listening: %w", err)
	}
	listening := conn.Hijack() // a connection that listens must not return to the pool
	defer listening.Close(context.WithoutCancel(ctx))
	if _, err := listening.Exec(ctx, "LISTEN outflow_doctor"); err != nil {
		return false, fmt.Errorf("listening: %w", err)
	}
	if _, err := o.pool.Exec(ctx, "NOTIFY outflow_doctor"); err != nil {
		return false, fmt.Errorf("notifying: %w", err)
	}
	inTime, cancel := context.WithTimeout(ctx, notifyTimeout)
	defer cancel()
	_, err = listening.WaitForNotification(inTime)
	if err != nil && inTime.Err() != nil && ctx.Err() == nil {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("waiting for a notification: %w", err)
	}
	return true, nil
}
