package operator

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outflowhq/outflow/internal/database"
	"github.com/outflowhq/outflow/internal/text"
)

// Grants names the roles that work with the outbox. Each gets the rights that its work needs and no
// more; none of them owns or changes the schema.
type Grants struct {
	// Producers call the enqueue functions, which write with their owner's rights. They can read no
	// table, so they see nobody's payloads. They may wait for the end of a message whose ID they
	// know.
	Producers []string
	// Dispatchers are the roles of the daemons.
	Dispatchers []string
	// Operators are the roles of people with the outflow command.
	Operators []string
}

// The rights of each kind of role; %s is the role. Repeating one changes nothing.
const usageRights = `GRANT USAGE ON SCHEMA outbox TO %s`

// enqueueArguments are those of outbox.enqueue behind the payload.
const enqueueArguments = `text, jsonb, text, uuid, timestamptz, interval, timestamptz, interval, boolean, text, boolean`

const enqueueRights = `GRANT EXECUTE ON FUNCTION
    outbox.enqueue_batch(jsonb, boolean),
    outbox.enqueue(text, text, text, ` + enqueueArguments + `),
    outbox.enqueue(text, text, bytea, ` + enqueueArguments + `),
    outbox.enqueue(text, text, json, ` + enqueueArguments + `),
    outbox.enqueue(text, text, jsonb, ` + enqueueArguments + `)
    TO %s`

// The table's constraints call is_destination on every update, as the caller.
const checkRights = `GRANT EXECUTE ON FUNCTION outbox.is_destination(text) TO %s`

// Waiting needs functions only. They show how a message stands to whoever knows its ID.
const waitRights = `GRANT EXECUTE ON FUNCTION ` +
	`outbox.outcomes(uuid[]), outbox.group_outcomes(uuid[]), outbox.keep_waiter(uuid), outbox.drop_waiter(uuid) TO %s`

// Who ends messages notifies those who wait for the end.
const notifyRights = `GRANT EXECUTE ON FUNCTION outbox.notify_waiters(uuid[]) TO %s`

// Who ends a message releases the next one of its ordering key. The functions write with their
// owner's rights.
const promoteRights = `GRANT EXECUTE ON FUNCTION outbox.promote(uuid[]) TO %s`

// The scanner makes deferred releases.
const deferredRights = `GRANT SELECT ON outbox.deferred_releases TO %s`

const settleRights = `GRANT EXECUTE ON FUNCTION outbox.settle(text, text), ` +
	`outbox.purge_keys(interval, integer) TO %s`

// An operator's act may move a message from one ordering key to another.
const moveRights = `GRANT EXECUTE ON FUNCTION outbox.release_moved(uuid[], text[]) TO %s`

// DELETE is the purge's, which moves rows to the history or drops them.
const dispatchRights = `GRANT SELECT, DELETE ON outbox.messages TO %s`

// A dispatcher may not change what a producer or an operator has set: the destination, the payload,
// the due time, the generation.
const deliverRights = `GRANT UPDATE (
    state, claims, attempts, started, streamed, parked, head, follower, retrying, available_at, finished_at,
    dismissed_at, broker_message_id, last_error, callback_state, callback_attempts, callback_error, callback_due_at
    ) ON outbox.messages TO %s`

const destinationRights = `GRANT SELECT, INSERT, UPDATE, DELETE ON outbox.destinations TO %s`

// Each starter and worker has a row of its own, and each connection that listens for messages.
const processRights = `GRANT SELECT, INSERT, UPDATE, DELETE ON outbox.processes, outbox.listeners TO %s`

// A stream claims pages, and notes how it goes.
const streamRights = `GRANT SELECT, INSERT, UPDATE, DELETE ON outbox.streams, outbox.pages TO %s`

// An operator has streams begin, or not.
const streamSettingRights = `GRANT INSERT, UPDATE, DELETE ON outbox.streams TO %s`

// Who makes a message due tells an idle starter.
const hintRights = `GRANT EXECUTE ON FUNCTION outbox.hint(integer, boolean, uuid) TO %s`

// A dispatcher writes the row where the schema came without its data.
const identityRights = `GRANT SELECT, INSERT ON outbox.identity TO %s`

const historyRights = `GRANT INSERT ON outbox.history TO %s`

// The purge deletes old entries and writes none.
const auditPurgeRights = `GRANT SELECT, DELETE ON outbox.audit TO %s`

const readRights = `GRANT SELECT ON ALL TABLES IN SCHEMA outbox TO %s`

// INSERT is for copies of delivered messages.
const operateRights = `GRANT INSERT, UPDATE, DELETE ON outbox.messages TO %s`

// Entries of the audit can be added, not changed. The database writes their time and login.
const auditRights = `GRANT INSERT (act, message_id, destination, generation, who, why, detail) ON outbox.audit TO %s`

// A redirect accepts a queue URL or an ARN as pasted, and the audit shows no query.
const destinationNameRights = `GRANT EXECUTE ON FUNCTION ` +
	`outbox.is_destination(text), outbox.canonical_destination(text), outbox.display_destination(text) TO %s`

// Nobody else needs a right on the rules: enqueue_batch reads them with its owner's rights.
const ruleRights = `GRANT INSERT, UPDATE, DELETE ON outbox.callback_rules, outbox.routes TO %s`

var (
	producerRights   = []string{usageRights, enqueueRights, waitRights}
	dispatcherRights = []string{
		usageRights, checkRights, dispatchRights, deliverRights, destinationRights, processRights, identityRights,
		historyRights, auditPurgeRights, waitRights, notifyRights,
		promoteRights, deferredRights, settleRights, hintRights, streamRights,
	}
	operatorRights = []string{
		usageRights, readRights, enqueueRights, destinationNameRights, operateRights, historyRights,
		auditRights, ruleRights, waitRights, notifyRights, promoteRights, moveRights, hintRights,
		streamSettingRights,
	}
)

// Statements returns the GRANTs, in order, without their semicolons.
func (g Grants) Statements() []string {
	var statements []string
	for _, kind := range []struct{ roles, rights []string }{
		{g.Producers, producerRights}, {g.Dispatchers, dispatcherRights}, {g.Operators, operatorRights},
	} {
		for _, role := range kind.roles {
			for _, right := range kind.rights {
				statements = append(statements, fmt.Sprintf(right, pgx.Identifier{role}.Sanitize()))
			}
		}
	}
	return statements
}

func (g Grants) roles() []string {
	return slices.Compact(slices.Sorted(slices.Values(slices.Concat(g.Producers, g.Dispatchers, g.Operators))))
}

// missingRolesSQL compares roles as text: the type name would cut a long one to the name of another
// role.
const missingRolesSQL = `
SELECT r FROM pg_catalog.unnest($1::text[]) AS r
 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname::text = r)
 ORDER BY r`

// CheckRoles reports the roles that do not exist.
func (g Grants) CheckRoles(ctx context.Context, pool *pgxpool.Pool) error {
	for _, role := range g.roles() {
		if !text.Storable(role) {
			return fmt.Errorf("checking the roles: wants names of Postgres roles (got %q)", role)
		}
	}
	rows, err := database.New(pool).Query(ctx, missingRolesSQL, g.roles())
	if err != nil {
		return fmt.Errorf("checking the roles: %w", err)
	}
	missing, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("checking the roles: %w", err)
	}
	var errs []error
	for _, role := range missing {
		errs = append(errs,
			fmt.Errorf("there is no role %q: create it first, with the login and password that you want", role))
	}
	return errors.Join(errs...)
}

// Apply gives the rights in one transaction, as the outbox's owner or somebody who may pass its
// rights on. Postgres only warns of a right that the caller can't give. Here that is an error, and
// nothing is given.
func (g Grants) Apply(ctx context.Context, pool *pgxpool.Pool) error {
	config := pool.Config().ConnConfig
	var refused []error
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if n.SeverityUnlocalized == "WARNING" {
			refused = append(refused, errors.New(n.Message))
		}
	}
	if before := pool.Config().BeforeConnect; before != nil {
		if err := before(ctx, config); err != nil {
			return fmt.Errorf("granting rights: %w", err)
		}
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("granting rights: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, statement := range g.Statements() {
			if _, err := tx.Exec(ctx, statement); err != nil {
				return fmt.Errorf("granting rights: %s: %w", statement, err)
			}
			if len(refused) > 0 {
				return fmt.Errorf("granting rights: %s: %w: run it as the owner of the outbox",
					statement, errors.Join(refused...))
			}
		}
		return nil
	})
}
