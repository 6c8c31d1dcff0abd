package operator

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outflowhq/outflow/internal/text"
)

// Rules are what operators decide for messages that are enqueued later: the callback rules and the
// routes, each in a table by destination and type. One statement makes a change and its audit:
//   - changeRule locks the table: no other change comes between what the statement reads and
//     writes. Enqueues read on.
//   - "changed" is the rule $1 (destination) and $4 (type) as it was written or deleted.
//   - ruleColumns, an act and its detail are what the audit notes for $2 who says why ($3).
const (
	ofRule      = ` AS c WHERE c.destination = $1::text AND c.type = $4::text`
	ruleColumns = `
 RETURNING NULL::uuid AS id, nullif(c.destination, '') AS destination, NULL::integer AS generation, `
)

// InvalidRuleError says why a rule was refused. Nothing was written.
type InvalidRuleError struct {
	// Field is "destination", "type", "callback" or "payload".
	Field string
	// Wants says what the field accepts.
	Wants string
}

func (e *InvalidRuleError) Error() string { return e.Field + ": " + e.Wants }

// What fields of rules want, in the words of the enqueue.
const (
	wantsRuleDestination = "wants sqs://queue, sns://topic, rabbitmq://exchange/routing-key, " +
		"temporal://task-queue/WorkflowType or https://host/path"
	wantsRuleType = `wants 1 to 200 letters, digits or any of ". _ : / -", the first a letter or digit`
)

// ruleRefusals are what the tables' constraints say.
var ruleRefusals = map[string]InvalidRuleError{
	"callback_rules_destination": {"destination", wantsRuleDestination},
	"callback_rules_type":        {"type", wantsRuleType},
	"callback_rules_callback": {"callback", "wants none, " + wantsRuleDestination[len("wants "):] +
		", and no signal: a callback names no workflow"},
	"callback_rules_payload": {"payload", "wants a callback that is not none"},
	"routes_destination":     {"destination", "wants none, " + wantsRuleDestination[len("wants "):]},
	"routes_type":            {"type", wantsRuleType + `, and a beginning other than "outflow."`},
}

// ruleField is a field of a rule that a table's constraint checks.
type ruleField struct{ name, value string }

// changeRule runs the statement that changes a rule, with its values from $5 on, under the lock of
// the table, and scans its one row. A value that the table refuses is an InvalidRuleError.
func (o *Operator) changeRule(
	ctx context.Context, table, statement string, by Actor, destination, messageType string,
	values []any, scan ...any,
) error {
	err := pgx.BeginFunc(ctx, o.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `LOCK TABLE `+table+` IN SHARE ROW EXCLUSIVE MODE`); err != nil {
			return err
		}
		args := append([]any{destination, by.Who, by.Why, messageType}, values...)
		return tx.QueryRow(ctx, statement, args...).Scan(scan...)
	})
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		if refusal, ok := ruleRefusals[pg.ConstraintName]; ok {
			return &refusal
		}
	}
	return err
}

// checkRule refuses what Postgres's text can't carry.
func checkRule(fields ...ruleField) error {
	for _, f := range fields {
		if !text.Storable(f.value) {
			return &InvalidRuleError{f.name, "wants valid UTF-8 without NUL"}
		}
	}
	return nil
}

// readRules returns the rules of one kind, in the statement's order.
func readRules[Rule any](ctx context.Context, o *Operator, kind, statement string, args ...any) ([]Rule, error) {
	rows, err := o.pool.Query(ctx, statement, args...)
	if err != nil {
		return nil, fmt.Errorf("reading the %s: %w", kind, err)
	}
	rules, err := pgx.CollectRows(rows, pgx.RowToStructByName[Rule])
	if err != nil {
		return nil, fmt.Errorf("reading the %s: %w", kind, err)
	}
	return rules, nil
}
