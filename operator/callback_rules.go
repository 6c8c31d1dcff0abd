package operator

import (
	"context"
	"fmt"

	"github.com/outflowhq/outflow/outboxdb"
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

const callbackRulesTable = `outbox.callback_rules`

// setCallbackRuleSQL writes a rule and returns the callback of the rule that it replaces.
const setCallbackRuleSQL = `
WITH was AS MATERIALIZED (
    SELECT c.callback FROM ` + callbackRulesTable + ofRule + `
), changed AS (
    INSERT INTO ` + callbackRulesTable + ` AS c (destination, type, callback, payload)
    VALUES ($1::text, $4::text, $5::text, $6::boolean)
        ON CONFLICT (destination, type) DO UPDATE SET callback = excluded.callback, payload = excluded.payload` +
	ruleColumns + `
           'set-callback-rule' AS act, pg_catalog.jsonb_build_object(
               'type', nullif(c.type, ''), 'callback', outbox.display_destination(c.callback),
               'payload', nullif(c.payload, false),
               'was', outbox.display_destination((SELECT w.callback FROM was AS w))) AS detail` +
	outboxdb.AuditActSQL + `
SELECT coalesce((SELECT w.callback FROM was AS w), '')`

// unsetCallbackRuleSQL deletes a rule.
const unsetCallbackRuleSQL = `
WITH changed AS (
    DELETE FROM ` + callbackRulesTable + ofRule + ruleColumns + `
           'unset-callback-rule' AS act, pg_catalog.jsonb_build_object(
               'type', nullif(c.type, ''), 'was', outbox.display_destination(c.callback)) AS detail` +
	outboxdb.AuditActSQL + `
SELECT count(*) > 0 FROM changed`

// callbackRulesSQL returns all rules, the narrowest first.
const callbackRulesSQL = `
SELECT c.destination, c.type, c.callback, c.payload FROM ` + callbackRulesTable + ` AS c
 ORDER BY c.destination = '', c.type = '', c.destination, c.type`

// SetCallbackRule sets a rule for messages that are enqueued from now on. It replaces the rule for
// the same destination and type, and returns that rule's callback; "" where there was none. A bad
// rule is an InvalidRuleError.
func (o *Operator) SetCallbackRule(ctx context.Context, r CallbackRule, by Actor) (was string, err error) {
	err = checkRule(ruleField{"destination", r.Destination}, ruleField{"type", r.Type},
		ruleField{"callback", r.Callback})
	if err == nil {
		err = o.changeRule(ctx, callbackRulesTable, setCallbackRuleSQL, by,
			r.Destination, r.Type, []any{r.Callback, r.WithPayload}, &was)
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
	if checkRule(ruleField{"destination", destination}, ruleField{"type", messageType}) != nil {
		return false, nil
	}
	err = o.changeRule(ctx, callbackRulesTable, unsetCallbackRuleSQL, by,
		destination, messageType, nil, &found)
	if err != nil {
		return false, fmt.Errorf("unsetting a callback rule: %w", err)
	}
	return found, nil
}

// CallbackRules returns all rules, the narrowest first.
func (o *Operator) CallbackRules(ctx context.Context) ([]CallbackRule, error) {
	return readRules[CallbackRule](ctx, o, "callback rules", callbackRulesSQL)
}
