package operator

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outflowhq/outflow/internal/text"
)

// CallbackRule gives a callback to messages that are enqueued without one of their own. Of the
// rules that fit a message the narrowest counts: first those for its destination, of these the one
// for its type.
type CallbackRule struct {
	// Destination, in canonical form, and Type are those of the messages; empty means any.
	Destination string `db:"destination" json:"destination,omitempty"`
	Type        string `db:"type" json:"type,omitempty"`
	// Callback is a destination, in canonical form, or outflow.NoCallback for an exception from a
	// wider rule.
	Callback string `db:"callback" json:"callback"`
	// WithPayload has the callback carry the message's payload too.
	WithPayload bool `db:"payload" json:"payload,omitempty"`
}

// InvalidRuleError says why a rule was refused. Nothing was written.
type InvalidRuleError struct {
	// Field is "destination", "type", "callback" or "payload".
	Field string
	// Wants says what the field accepts.
	Wants string
}

func (e *InvalidRuleError) Error() string { return e.Field + ": " + e.Wants }

// ruleRefusals are what the table's constraints say.
var ruleRefusals = map[string]InvalidRuleError{
	"callback_rules_destination": {"destination",
		"wants sqs://queue, sns://topic, rabbitmq://exchange/routing-key, temporal://task-queue/WorkflowType " +
			"or https://host/path"},
	"callback_rules_type": {"type",
		`wants 1 to 200 letters, digits or any of ". _ : / -", the first a letter or digit`},
	"callback_rules_callback": {"callback",
		"wants none, sqs://queue, sns://topic, rabbitmq://exchange/routing-key, temporal://task-queue/WorkflowType " +
			"or https://host/path"},
	"callback_rules_payload": {"payload", "wants a callback that is not none"},
}

// setCallbackRuleSQL writes the rule for $3 and $4, for $1 who says why ($2). The count makes
// Postgres read the rule that is replaced before it is written.
const setCallbackRuleSQL = `
WITH was AS MATERIALIZED (
    SELECT c.callback FROM outbox.callback_rules AS c
     WHERE c.destination = $3::text AND c.type = $4::text FOR NO KEY UPDATE
), changed AS (
    INSERT INTO outbox.callback_rules AS c (destination, type, callback, payload)
    SELECT $3::text, $4::text, $5::text, $6::boolean WHERE (SELECT count(*) FROM was) >= 0
        ON CONFLICT (destination, type) DO UPDATE SET callback = excluded.callback, payload = excluded.payload
 RETURNING c.destination, c.type, c.callback, c.payload
), noted AS (
    INSERT INTO outbox.audit (act, destination, who, why, detail)
    SELECT 'set-callback-rule', outbox.display_destination(nullif(c.destination, '')), $1::text, $2::text,
           jsonb_strip_nulls(pg_catalog.jsonb_build_object(
           'type', nullif(c.type, ''), 'callback', outbox.display_destination(c.callback),
           'payload', nullif(c.payload, false), 'was', outbox.display_destination((SELECT callback FROM was))))
      FROM changed AS c
)
SELECT coalesce((SELECT callback FROM was), '')`

// unsetCallbackRuleSQL deletes the rule for $3 and $4.
const unsetCallbackRuleSQL = `
WITH gone AS (
    DELETE FROM outbox.callback_rules AS c WHERE c.destination = $3::text AND c.type = $4::text
 RETURNING c.destination, c.type, c.callback
), noted AS (
    INSERT INTO outbox.audit (act, destination, who, why, detail)
    SELECT 'unset-callback-rule', outbox.display_destination(nullif(g.destination, '')), $1::text, $2::text,
           jsonb_strip_nulls(pg_catalog.jsonb_build_object(
               'type', nullif(g.type, ''), 'was', outbox.display_destination(g.callback)))
      FROM gone AS g
)
SELECT count(*) > 0 FROM gone`

// callbackRulesSQL returns all rules, the narrowest first.
const callbackRulesSQL = `
SELECT c.destination, c.type, c.callback, c.payload FROM outbox.callback_rules AS c
 ORDER BY c.destination = '', c.type = '', c.destination, c.type`

// SetCallbackRule sets a rule for messages that are enqueued from now on. It replaces the rule for
// the same destination and type, and returns that rule's callback; "" where there was none. A bad
// rule is an InvalidRuleError.
func (o *Operator) SetCallbackRule(ctx context.Context, r CallbackRule, by Actor) (was string, err error) {
	for _, f := range []struct{ name, value string }{
		{"destination", r.Destination}, {"type", r.Type}, {"callback", r.Callback},
	} {
		if !text.Storable(f.value) {
			return "", fmt.Errorf("setting a callback rule: %w",
				&InvalidRuleError{f.name, "wants valid UTF-8 without NUL"})
		}
	}
	err = o.pool.QueryRow(ctx, setCallbackRuleSQL,
		by.Who, by.Why, r.Destination, r.Type, r.Callback, r.WithPayload).Scan(&was)
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		if refusal, ok := ruleRefusals[pg.ConstraintName]; ok {
			err = &refusal
		}
	}
	if err != nil {
		return "", fmt.Errorf("setting a callback rule: %w", err)
	}
	return was, nil
}

// UnsetCallbackRule deletes the rule for a destination and type, where "" means any. found is false
// where there is no such rule.
func (o *Operator) UnsetCallbackRule(
	ctx context.Context, destination, messageType string, by Actor,
) (found bool, err error) {
	if !text.Storable(destination) || !text.Storable(messageType) {
		return false, nil
	}
	err = o.pool.QueryRow(ctx, unsetCallbackRuleSQL, by.Who, by.Why, destination, messageType).Scan(&found)
	if err != nil {
		return false, fmt.Errorf("unsetting a callback rule: %w", err)
	}
	return found, nil
}

// CallbackRules returns all rules, the narrowest first.
func (o *Operator) CallbackRules(ctx context.Context) ([]CallbackRule, error) {
	rows, err := o.pool.Query(ctx, callbackRulesSQL)
	if err != nil {
		return nil, fmt.Errorf("reading the callback rules: %w", err)
	}
	rules, err := pgx.CollectRows(rows, pgx.RowToStructByName[CallbackRule])
	if err != nil {
		return nil, fmt.Errorf("reading the callback rules: %w", err)
	}
	return rules, nil
}
