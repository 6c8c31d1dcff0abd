package outboxdb_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/operator"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

func setRule(t testing.TB, o *operator.Operator, r operator.CallbackRule) {
	t.Helper()
	_, err := o.SetCallbackRule(t.Context(), r, ada)
	require.NoError(t, err)
}

// asks is the address of a row's callback; "" where it has none.
func asks(t testing.TB, q queryer, id uuid.UUID) string {
	t.Helper()
	return value[string](t, q, `SELECT coalesce(callback, '') || CASE WHEN callback_payload THEN ' with the payload' ELSE '' END FROM outbox.messages WHERE id = $1`, id)
}

// TestCallbackRules: the message's own callback counts first, then the narrowest rule,
// whatever the driver.
func TestCallbackRules(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := operator.New(pool, nil, "")
	const orders = "sqs://orders?account=123456789012&region=eu-west-1"
	for _, r := range []operator.CallbackRule{
		{Destination: orders, Type: "order/placed", Callback: "sqs://both", WithPayload: true},
		{Destination: orders, Callback: "sqs://destination"},
		{Type: "order/placed", Callback: "https://type.example/?a=b"},
		{Type: "heartbeat", Callback: outflow.NoCallback},
		{Destination: orders, Type: "quiet", Callback: outflow.NoCallback},
		{Callback: "sqs://any"},
	} {
		setRule(t, o, r)
	}
	for _, c := range []struct {
		destination, messageType, own string
		payload                       bool
		want                          string
	}{
		{orders, "order/placed", "", false, "sqs://both with the payload"},
		{"arn:aws:sqs:eu-west-1:123456789012:orders", "order/placed", "", false, "sqs://both with the payload"},
		{orders, "order/paid", "", false, "sqs://destination"},
		{orders, "heartbeat", "", false, "sqs://destination"},
		{orders, "quiet", "", false, ""},
		{"sqs://orders", "order/placed", "", false, "https://type.example/?a=b"},
		{"sqs://other", "order/placed", "", false, "https://type.example/?a=b"},
		{"sqs://other", "heartbeat", "", false, ""},
		{"sqs://other", "Order/placed", "", false, "sqs://any"},
		{"https://shop.example/hook", "other", "", false, "sqs://any"},
		{orders, "order/placed", "sqs://own", false, "sqs://own"},
		{orders, "order/placed", "arn:aws:sqs:eu-west-1:123456789012:own", true,
			"sqs://own?account=123456789012&region=eu-west-1 with the payload"},
		{orders, "quiet", "sqs://own", false, "sqs://own"},
		{orders, "order/placed", outflow.NoCallback, false, ""},
		{"sqs://other", "other", outflow.NoCallback, false, ""},
	} {
		m := message(c.destination)
		m.Type, m.Callback, m.CallbackPayload = c.messageType, c.own, c.payload
		name := fmt.Sprintf("%s %s %q", c.destination, c.messageType, c.own)
		for _, d := range drivers(t, pool) {
			t.Run(name+", "+d.name, func(t *testing.T) {
				s := d.open(t)
				ids, err := s.enqueue(t.Context(), m)
				require.NoError(t, err)
				require.NoError(t, s.commit(t.Context()))
				assert.Equal(t, c.want, asks(t, pool, ids[0]))
			})
		}
		t.Run(name+", SQL", func(t *testing.T) {
			assert.Equal(t, c.want, asks(t, pool, value[uuid.UUID](t, pool, enqueueOne, arguments(m)...)))
		})
	}
}

// Of many messages in one call each has its own rule, and they keep their order.
func TestCallbackRulesOfMany(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := operator.New(pool, nil, "")
	msgs := make([]outflow.Message, 300)
	for i := range msgs {
		msgs[i] = message(fmt.Sprintf("sqs://q%d", i%7))
		msgs[i].Type = fmt.Sprintf("t%d", i%5)
	}
	msgs[8].Callback = "sqs://own"
	setRule(t, o, operator.CallbackRule{Destination: "sqs://q1", Callback: "sqs://by-q1"})
	setRule(t, o, operator.CallbackRule{Type: "t3", Callback: "sqs://by-t3"})
	ids := enqueue(t, pool, msgs...)
	require.Equal(t, ids, values[uuid.UUID](t, pool, `SELECT id FROM outbox.messages ORDER BY seq`))
	for i, got := range values[string](t, pool, `SELECT coalesce(callback, '') FROM outbox.messages ORDER BY seq`) {
		want := ""
		switch {
		case i == 8:
			want = "sqs://own"
		case i%7 == 1:
			want = "sqs://by-q1"
		case i%5 == 3:
			want = "sqs://by-t3"
		}
		require.Equal(t, want, got, "%d", i)
	}
}

// A row keeps what was decided when it was written; a copy of it has the same.
func TestCallbackRulesAreForWhatComes(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o, store := operator.New(pool, nil, ""), outboxdb.New(pool)
	before := enqueue(t, pool, message("sqs://orders"))[0]
	setRule(t, o, operator.CallbackRule{Destination: "sqs://orders", Callback: "sqs://first", WithPayload: true})
	first := enqueue(t, pool, message("sqs://orders"))[0]
	setRule(t, o, operator.CallbackRule{Destination: "sqs://orders", Callback: "sqs://second"})
	second := enqueue(t, pool, message("sqs://orders"))[0]
	found, err := o.UnsetCallbackRule(t.Context(), "sqs://orders", "", ada)
	require.NoError(t, err)
	require.True(t, found)
	after := enqueue(t, pool, message("sqs://orders"))[0]

	_, err = o.Redirect(t.Context(), []uuid.UUID{first}, "sqs://elsewhere", ada)
	require.NoError(t, err)
	_, err = store.Finish(t.Context(), outbox.Ending{Ref: outbox.Ref{ID: first, Generation: 2},
		State: outflow.Delivered})
	require.NoError(t, err)
	answers, err := o.Resend(t.Context(), []uuid.UUID{first}, ada)
	require.NoError(t, err)
	copied := *answers[0].NewID
	for id, want := range map[uuid.UUID]string{before: "", first: "sqs://first with the payload",
		second: "sqs://second", after: "", copied: "sqs://first with the payload"} {
		assert.Equal(t, want, asks(t, pool, id))
	}
	shown, err := o.Message(t.Context(), first)
	require.NoError(t, err)
	assert.True(t, shown.CallbackPayload)
}

func TestSetCallbackRules(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := operator.New(pool, nil, "")
	set := func(r operator.CallbackRule) string {
		was, err := o.SetCallbackRule(t.Context(), r, ada)
		require.NoError(t, err)
		return was
	}
	unset := func(destination, messageType string) bool {
		found, err := o.UnsetCallbackRule(t.Context(), destination, messageType, operator.Actor{Who: "bob"})
		require.NoError(t, err)
		return found
	}
	assert.Empty(t, set(operator.CallbackRule{Callback: "sqs://any"}))
	assert.Empty(t, set(operator.CallbackRule{Destination: "sqs://b", Callback: "sqs://r"}))
	assert.Empty(t, set(operator.CallbackRule{Destination: "sqs://a", Callback: "sqs://r"}))
	assert.Empty(t, set(operator.CallbackRule{Type: "t", Callback: outflow.NoCallback}))
	assert.Empty(t, set(operator.CallbackRule{Destination: "sqs://a", Type: "t", Callback: "sqs://r",
		WithPayload: true}))
	assert.Equal(t, "sqs://r", set(operator.CallbackRule{Destination: "sqs://a", Type: "t",
		Callback: "https://shop.example/done"}))
	rules, err := o.CallbackRules(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []operator.CallbackRule{
		{Destination: "sqs://a", Type: "t", Callback: "https://shop.example/done"},
		{Destination: "sqs://a", Callback: "sqs://r"}, {Destination: "sqs://b", Callback: "sqs://r"},
		{Type: "t", Callback: "none"}, {Callback: "sqs://any"},
	}, rules)

	assert.False(t, unset("sqs://b", "t"), "there is one for any type alone")
	assert.False(t, unset("sqs://\x00", ""))
	assert.True(t, unset("sqs://a", "t"))
	assert.False(t, unset("sqs://a", "t"))
	assert.True(t, unset("", ""))
	rules, err = o.CallbackRules(t.Context())
	require.NoError(t, err)
	assert.Len(t, rules, 3)
	assert.Equal(t, []string{
		`set-callback-rule any ada@host the queue is back {"callback": "sqs://any"}`,
		`set-callback-rule sqs://b ada@host the queue is back {"callback": "sqs://r"}`,
		`set-callback-rule sqs://a ada@host the queue is back {"callback": "sqs://r"}`,
		`set-callback-rule any ada@host the queue is back {"type": "t", "callback": "none"}`,
		`set-callback-rule sqs://a ada@host the queue is back {"type": "t", "payload": true, "callback": "sqs://r"}`,
		`set-callback-rule sqs://a ada@host the queue is back {"was": "sqs://r", "type": "t", "callback": "https://shop.example/done"}`,
		`unset-callback-rule sqs://a bob  {"was": "https://shop.example/done", "type": "t"}`,
		`unset-callback-rule any bob  {"was": "sqs://any"}`,
	}, values[string](t, pool, `SELECT act || ' ' || coalesce(destination, 'any') || ' ' || who || ' ' || why || ' ' || detail FROM outbox.audit ORDER BY id`))
}

// TestBadCallbackRules: the table refuses them, and Go says why in words.
func TestBadCallbackRules(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := operator.New(pool, nil, "")
	const wantsURL = "wants none, sqs://queue, sns://topic, rabbitmq://exchange/routing-key, temporal://task-queue/WorkflowType or https://host/path"
	const wantsCallback = wantsURL + ", and no signal: a callback names no workflow"
	const wantsDestination = "wants sqs://queue, sns://topic, rabbitmq://exchange/routing-key, temporal://task-queue/WorkflowType or https://host/path"
	const wantsText = "wants valid UTF-8 without NUL"
	for _, c := range []struct {
		rule         operator.CallbackRule
		field, wants string
	}{
		{operator.CallbackRule{}, "callback", wantsCallback},
		{operator.CallbackRule{Callback: "None"}, "callback", wantsCallback},
		{operator.CallbackRule{Callback: "http://shop.example/"}, "callback", wantsCallback},
		{operator.CallbackRule{Callback: "https://me:secret@shop.example/"}, "callback", wantsCallback},
		{operator.CallbackRule{Callback: "https://169.254.169.254/#x"}, "callback", wantsCallback},
		{operator.CallbackRule{Callback: "file:///etc/passwd"}, "callback", wantsCallback},
		{operator.CallbackRule{Callback: "sqs://r\n"}, "callback", wantsCallback},
		{operator.CallbackRule{Callback: "https://shop.example/" + strings.Repeat("a", 1980)}, "callback", wantsCallback},
		{operator.CallbackRule{Callback: "arn:aws:sqs:eu-west-1:123456789012:r"}, "callback", wantsCallback},
		{operator.CallbackRule{Callback: "temporal://orders/Process?signal=pay"}, "callback", wantsCallback},
		{operator.CallbackRule{Callback: "sqs://\x00"}, "callback", wantsText},
		{operator.CallbackRule{Callback: "none", WithPayload: true}, "payload", "wants a callback that is not none"},
		{operator.CallbackRule{Destination: "orders", Callback: "sqs://r"}, "destination", wantsDestination},
		{operator.CallbackRule{Destination: "none", Callback: "sqs://r"}, "destination", wantsDestination},
		{operator.CallbackRule{Destination: "*", Callback: "sqs://r"}, "destination", wantsDestination},
		{operator.CallbackRule{Destination: "\xff", Callback: "sqs://r"}, "destination", wantsText},
		{operator.CallbackRule{Type: "a b", Callback: "sqs://r"}, "type", wantsType[:len(wantsType)-len(" (got ")]},
		{operator.CallbackRule{Type: "größe", Callback: "sqs://r"}, "type", wantsType[:len(wantsType)-len(" (got ")]},
		{operator.CallbackRule{Type: strings.Repeat("t", 201), Callback: "sqs://r"}, "type",
			wantsType[:len(wantsType)-len(" (got ")]},
		{operator.CallbackRule{Type: "'; DROP TABLE outbox.messages; --", Callback: "sqs://r"}, "type",
			wantsType[:len(wantsType)-len(" (got ")]},
		{operator.CallbackRule{Type: "a\x00", Callback: "sqs://r"}, "type", wantsText},
	} {
		_, err := o.SetCallbackRule(t.Context(), c.rule, ada)
		var refused *operator.InvalidRuleError
		if assert.True(t, errors.As(err, &refused), "%+v: %v", c.rule, err) {
			assert.Equal(t, operator.InvalidRuleError{Field: c.field, Wants: c.wants}, *refused, "%+v", c.rule)
			assert.EqualError(t, err, "setting a callback rule: "+c.field+": "+c.wants)
		}
	}
	_, err := o.SetCallbackRule(t.Context(), operator.CallbackRule{Callback: "sqs://r"}, operator.Actor{})
	require.ErrorContains(t, err, "audit_who", "nobody sets one")
	rules, err := o.CallbackRules(t.Context())
	require.NoError(t, err)
	assert.Empty(t, rules)
	assert.Zero(t, value[int](t, pool, `SELECT count(*) FROM outbox.audit`))
}

// TestRulesCostLittle: rules are found by their key, however many there are, and a
// message with a callback of its own reads none.
func TestRulesCostLittle(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	one := another(t, pool, func(c *pgxpool.Config) { c.MaxConns = 1 })
	buffers := func(callback string) (n int) {
		for range 8 { // a session's first plans are others
			n = teststack.Explain(t, one, "auto",
				`SELECT outbox.enqueue('sqs://orders', 'a', 'x'::text, callback => $1)`,
				callback).Buffers()
		}
		return n
	}
	empty := buffers("")
	execute(t, pool, `INSERT INTO outbox.callback_rules (destination, type, callback) SELECT 'sqs://q' || n, 't', 'sqs://r' FROM generate_series(1, 20000) AS n`)
	execute(t, pool, `VACUUM ANALYZE outbox.callback_rules`)
	many, own := buffers(""), buffers("sqs://replies")
	t.Logf("buffers of one message: %d without rules, %d beside 20,000, %d beside them with a callback of its own",
		empty, many, own)
	assert.LessOrEqual(t, many, empty+20)
	assert.LessOrEqual(t, own, empty+1)
}
