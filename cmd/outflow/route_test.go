package main

import (
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
)

func TestRoutes(t *testing.T) {
	pool := teststack.New(t)
	for _, c := range []struct {
		line, out string
		code      int
		says      string
	}{
		{"list", "no routes\n", 0, ""},
		{"list -json", "", 0, ""},
		{"set -type order-placed arn:aws:sqs:eu-west-1:123456789012:orders -who ada -why asked",
			"order-placed: route to sqs://orders?account=123456789012&region=eu-west-1\n", 0, ""},
		{"set https://Shop.example/in?token=hunter2 -type order-placed",
			"order-placed: route to https://shop.example/in\n", 0, ""},
		{"set -type heartbeat none -json", `{"type":"heartbeat","destination":"none"}` + "\n", 0, ""},
		{"set -type größe sqs://orders", "", 2, `route set: type: wants 1 to 200 letters`},
		{"set -type order-placed orders", "", 2, `route set: the destination wants none, or: wants sqs://queue`},
		{"list", `TYPE          DESTINATION
heartbeat     none
order-placed  https://shop.example/in
order-placed  sqs://orders?account=123456789012&region=eu-west-1
`, 0, ""},
		{"list -type heartbeat", "TYPE       DESTINATION\nheartbeat  none\n", 0, ""},
		{"list -type order-placed -json", `{"type":"order-placed","destination":"https://shop.example/in?token=hunter2"}
{"type":"order-placed","destination":"sqs://orders?account=123456789012\u0026region=eu-west-1"}
`, 0, ""},
		{"unset -type order-placed sqs://orders", "", 3, "order-placed: there is no route to sqs://orders"},
		{"unset -type order-placed https://shop.example/in?token=hunter2",
			"order-placed: no route to https://shop.example/in any more\n", 0, ""},
		{"unset -type order-placed arn:aws:sqs:eu-west-1:123456789012:orders", "", 3,
			"order-placed: the route to sqs://orders?account=123456789012&region=eu-west-1 is the last: without one, " +
				"producers that enqueue by route are refused; set the route none first, or unset this one with -force"},
		{"unset -type order-placed arn:aws:sqs:eu-west-1:123456789012:orders -force -json",
			`{"type":"order-placed","destination":"sqs://orders?account=123456789012\u0026region=eu-west-1"}` + "\n",
			0, ""},
		{"list -type order-placed", "no routes\n", 0, ""},
	} {
		out, err := call(pool.Config().ConnString(), append([]string{"route"}, strings.Fields(c.line)...)...)
		assert.Equal(t, c.code, code(err), "%s: %v", c.line, err)
		if c.says != "" {
			assert.ErrorContains(t, err, c.says)
		}
		assert.Equal(t, c.out, out, c.line)
	}
	assert.Equal(t, []string{"set-route by ada: asked"}, teststack.Values[string](t, pool,
		`SELECT act || ' by ' || who || ': ' || why FROM outbox.audit WHERE who = 'ada'`))
}

// What an operator sends by route is shown, listed, waited for and retried by the group's ID.
func TestCommandsByGroup(t *testing.T) {
	pool := teststack.New(t)
	settings := map[string]string{"DATABASE_URL": pool.Config().ConnString(), "TEMPORAL_ADDRESS": "127.0.0.1:1"}
	run := func(line string) (out, errs string, exit int) {
		out, errs, err := with(t, settings, "", line)
		return out, errs, code(err)
	}
	for _, d := range []string{"sqs://orders", "https://shop.example/in?token=hunter2"} {
		_, _, exit := run("route set -type order-placed " + d)
		require.Zero(t, exit)
	}
	const send = "send -destination routes -payload {} -type "
	_, _, err := with(t, settings, "", send+"order-palced")
	require.EqualError(t, err, `send: type: wants a route (got "order-palced", which has none): `+
		`"outflow route set -type order-palced DESTINATION" sets one`)
	assert.Equal(t, 2, code(err))
	out, errs, exit := run(send + "order-placed")
	require.Zero(t, exit, errs)
	assert.Equal(t, "messages by route: 2\n", errs)
	group := uuid.MustParse(strings.TrimSpace(out))
	_, _, err = with(t, settings, "", send+"order-placed -id "+group.String())
	require.EqualError(t, err, "a message with the ID "+group.String()+" exists")
	_, _, exit = run("route set -type quiet none")
	require.Zero(t, exit)
	_, errs, exit = run(send + "quiet -json")
	require.Zero(t, exit)
	assert.Equal(t, "messages by route: 0\n", errs)
	_, _, exit = run("send -destination sqs://orders -payload {} -type order-placed")
	require.Zero(t, exit)

	for _, flag := range []string{" -payload", " -ui http://localhost:8080"} {
		_, _, err = with(t, settings, "", "show "+group.String()+flag)
		require.ErrorContains(t, err, "is a group: -payload and -ui want the ID of one of its messages")
	}
	_, _, err = with(t, settings, "", "route unset -type quiet none")
	require.ErrorContains(t, err, "set another route first")

	orders := outflow.RoutedID(group, "sqs://orders").String()
	hook := outflow.RoutedID(group, "https://shop.example/in?token=hunter2").String()
	out, _, exit = run("show " + orders)
	require.Zero(t, exit)
	assert.Regexp(t, `(?m)^group +`+group.String()+`$`, out)
	assert.Regexp(t, `(?m)^sibling +`+hook+` due https://shop.example/in$`, out)
	out, _, exit = run("show " + orders + " -json")
	require.Zero(t, exit)
	assert.Contains(t, out, `"groupId": "`+group.String()+`"`)
	assert.Contains(t, out, `"destination": "https://shop.example/in?token=hunter2"`)
	for _, line := range []string{"show ", "list -group ", "list -state pending -group "} {
		out, _, exit = run(line + group.String())
		require.Zero(t, exit)
		assert.Equal(t, 3, strings.Count(out, "\n"), out)
		assert.Contains(t, out, orders)
		assert.Contains(t, out, hook)
		assert.NotContains(t, out, "hunter2")
	}
	out, _, exit = run("show -json " + group.String())
	require.Zero(t, exit)
	assert.Contains(t, out, `"group": "`+group.String()+`"`)
	_, _, exit = run("show " + uuid.NewString())
	assert.Equal(t, 3, exit)

	teststack.Execute(t, pool, `UPDATE outbox.messages
		SET state = 'dead', finished_at = now(), last_error = 'no such queue' WHERE destination = 'sqs://orders'`)
	out, _, err = with(t, settings, "", "wait -timeout 0s "+group.String())
	assert.Equal(t, 4, code(err))
	assert.Equal(t, hook+"  due  https://shop.example/in\n"+orders+"  dead  sqs://orders\n", out)
	out, errs, exit = run("retry -state dead -group " + group.String())
	assert.Zero(t, exit)
	assert.Equal(t, orders+"  was dead, pending again\n", out)
	assert.Equal(t, "messages selected: 1\n", errs)

	out, _, exit = run(send + "order-placed")
	require.Zero(t, exit)
	second := strings.TrimSpace(out)
	out, _, exit = run("cancel -yes -state pending -group " + second)
	assert.Zero(t, exit)
	assert.Equal(t, 2, strings.Count(out, "cancelled"))
	out, _, err = with(t, settings, "", "wait -json "+second)
	assert.Equal(t, 3, code(err))
	assert.ErrorContains(t, err, "2 of 2 messages are not delivered: message ")
	assert.Equal(t, 2, strings.Count(out, `"state":"cancelled"`))
}
