package main

import (
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

func TestCallbackRules(t *testing.T) {
	pool := teststack.New(t)
	for _, c := range []struct {
		line, out string
		code      int
		says      string
	}{
		{"rules", "no rules\n", 0, ""},
		{"rules -json", "", 0, ""},
		{"set https://shop.example/all", "all messages: callback https://shop.example/all\n", 0, ""},
		{"set -type order-placed -destination arn:aws:sqs:eu-west-1:123456789012:orders -payload sqs://replies -who ada -why asked",
			"messages to sqs://orders?account=123456789012&region=eu-west-1 of type order-placed: callback sqs://replies with the payload\n", 0, ""},
		{"set https://shop.example/all", "all messages: callback https://shop.example/all\n", 0, ""},
		{"set https://shop.example/other", "all messages: callback https://shop.example/other, was https://shop.example/all\n", 0, ""},
		{"set none -type heartbeat -json", `{"type":"heartbeat","callback":"none"}` + "\n", 0, ""},
		{"set -type größe sqs://replies", "", 2, `callback set: type: wants 1 to 200 letters`},
		{"rules", `DESTINATION                                         TYPE          CALLBACK                    PAYLOAD
sqs://orders?account=123456789012&region=eu-west-1  order-placed  sqs://replies               yes
any                                                 heartbeat     none                        no
any                                                 any           https://shop.example/other  no
`, 0, ""},
		{"rules -json", `{"destination":"sqs://orders?account=123456789012\u0026region=eu-west-1","type":"order-placed","callback":"sqs://replies","payload":true}
{"type":"heartbeat","callback":"none"}
{"callback":"https://shop.example/other"}
`, 0, ""},
		{"unset -type order-placed", "", 3, "messages of type order-placed: there is no such rule"},
		{"unset -type heartbeat", "messages of type heartbeat: no rule any more\n", 0, ""},
		{"unset -json", `{"destination":"","type":""}` + "\n", 0, ""},
		{"unset", "", 3, "all messages: there is no such rule"},
	} {
		out, err := call(pool.Config().ConnString(), append([]string{"callback"}, strings.Fields(c.line)...)...)
		assert.Equal(t, c.code, code(err), "%s: %v", c.line, err)
		if c.says != "" {
			assert.ErrorContains(t, err, c.says)
		}
		assert.Equal(t, c.out, out, c.line)
	}
	var acts []string
	rows, err := pool.Query(t.Context(), `SELECT act || ' by ' || who || ': ' || why FROM outbox.audit WHERE who = 'ada' OR act LIKE 'unset%' ORDER BY id`)
	require.NoError(t, err)
	for rows.Next() {
		var act string
		require.NoError(t, rows.Scan(&act))
		acts = append(acts, act)
	}
	require.NoError(t, rows.Err())
	assert.Equal(t, []string{"set-callback-rule by ada: asked", "unset-callback-rule by " + whoAmI() + ": ",
		"unset-callback-rule by " + whoAmI() + ": "}, acts)
}

// From the producer's wish to the operator who finds what failed and starts it again.
func TestFailedCallbackIsFoundAndRetried(t *testing.T) {
	pool := teststack.New(t)
	url := pool.Config().ConnString()
	said := func(line string) string {
		out, err := call(url, strings.Fields(line)...)
		require.NoError(t, err, line)
		return out
	}
	id := strings.TrimSpace(said("send -destination sqs://orders -type order-placed -payload {} -callback https://shop.example/done -callback-payload"))
	quiet := strings.TrimSpace(said("send -destination sqs://orders -type order-placed -payload {} -callback none"))
	assert.NotContains(t, said("show "+quiet), "callback")
	store := outboxdb.New(pool)
	ref := outbox.Ref{ID: uuid.MustParse(id), Generation: 1}
	_, err := store.Finish(t.Context(), outbox.Ending{Ref: ref, State: outflow.Delivered})
	require.NoError(t, err)
	assert.Equal(t, "no messages\n", said("list -callback failed"))
	_, err = store.NoteCallback(t.Context(),
		outbox.CallbackNote{Ref: ref, State: outbox.CallbackFailed, LastError: "HTTP status 410 Gone"})
	require.NoError(t, err)
	assert.Contains(t, said("list -callback failed"), id)
	assert.Contains(t, said("list -callback failed -json"),
		`"callbackState":"failed","callbackPayload":true,"callbackError":"HTTP status 410 Gone"`)
	assert.Regexp(t, `callback +https://shop.example/done \(with the payload\) failed\n`, said("show "+id))
	assert.Contains(t, said("callback retry "+id), "its callback had failed, due again")
	assert.Equal(t, "no messages\n", said("list -callback failed"))
	assert.Contains(t, said("list -callback due"), id)
}
