package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/program"
)

// TestHostileCommandLines: each mistake is said whole, exits 2, and touches
// neither the database nor Temporal, which can't be reached here.
func TestHostileCommandLines(t *testing.T) {
	const wantsID = "wants message IDs such as 0198f3a2-5b1c-7000-8000-000000000001 "
	const wantsMoment = "wants how long ago, such as 2h or 7d, or a time such as 2026-01-31T08:00:00Z"
	const wantsURL = "callback set: the URL wants none, or: wants sqs://queue, sns://topic, rabbitmq://exchange/routing-key, temporal://task-queue/WorkflowType, https://host/path, a queue URL or an ARN: "
	const down = "migrate down wants -yes: it can drop messages that are not delivered"
	for line, says := range map[string]string{
		"":                                   "wants a command",
		"deliver":                            `unknown command "deliver"`,
		"MIGRATE up":                         `unknown command "MIGRATE": did you mean migrate?`,
		"-v":                                 `unknown command "-v"`,
		"--":                                 `unknown command "--"`,
		"migrate":                            "migrate wants up, status or down",
		"migrate sideways":                   "migrate wants up, status or down",
		"migrate -up":                        "migrate wants up, status or down: did you mean up?",
		"migrate upp":                        "migrate wants up, status or down: did you mean up?",
		"migrate úp":                         "migrate wants up, status or down: did you mean up?",
		"migrate up now":                     `migrate up: unexpected argument "now"`,
		"migrate up -yes":                    `migrate up: unexpected argument "-yes"`,
		"migrate status -v":                  `migrate status: unexpected argument "-v"`,
		"migrate down":                       down,
		"migrate down yes":                   down,
		"migrate down -y":                    down,
		"migrate down -yes=false":            down,
		"migrate down -yes all":              `migrate down: unexpected argument "all"`,
		"setup now":                          `setup: unexpected argument "now"`,
		"setup -force":                       "setup: flag provided but not defined: -force",
		"setup -":                            `setup: unexpected argument "-"`,
		"setup ---print":                     "setup: bad flag syntax: ---print",
		"setup -=1":                          "setup: bad flag syntax: -=1",
		"setup -print=perhaps":               `setup: invalid boolean value "perhaps" for -print: parse error`,
		"setup -wait":                        "setup: flag needs an argument: -wait",
		"setup -wait soon":                   `setup: invalid value "soon" for flag -wait: parse error`,
		"setup -wait 60":                     `setup: invalid value "60" for flag -wait: parse error`,
		"setup -wait 999ms":                  "setup: -wait wants at least 1s (got 999ms)",
		"setup -wait 0":                      "setup: -wait wants at least 1s (got 0s)",
		"setup -wait -1m":                    "setup: -wait wants at least 1s (got -1m0s)",
		"setup -wait 2562048h":               `setup: invalid value "2562048h" for flag -wait: parse error`,
		"setup -wait １m":                     `setup: invalid value "１m" for flag -wait: parse error`,
		"grants":                             "grants: wants -producer, -dispatcher or -operator with a role",
		"grants -apply":                      "grants: wants -producer, -dispatcher or -operator with a role",
		"grants -producer":                   "grants: flag needs an argument: -producer",
		"grants -producer=":                  `grants: invalid value "" for flag -producer: wants a role's name`,
		"grants -dispatcher= -apply":         `grants: invalid value "" for flag -dispatcher: wants a role's name`,
		"grants -operator=":                  `grants: invalid value "" for flag -operator: wants a role's name`,
		"grants -consumer shop":              "grants: flag provided but not defined: -consumer",
		"grants shop":                        `grants: unexpected argument "shop"`,
		"grants -producer a b":               `grants: unexpected argument "b"`,
		"grants -apply=2 -producer a":        `grants: invalid boolean value "2" for -apply: parse error`,
		"status now":                         `status: unexpected argument "now"`,
		"status -bound 0":                    "status: -bound wants 1 or more",
		"status -bound -1":                   "status: -bound wants 1 or more",
		"status -bound 99999999999999999999": `status: invalid value "99999999999999999999" for flag -bound: value out of range`,
		"status -watch=2":                    `status: invalid boolean value "2" for -watch: parse error`,
		"list dead":                          `list: unexpected argument "dead"`,
		"list -state DEAD":                   `list: -state wants pending, delivered, dead, expired or cancelled (got "DEAD")`,
		"list -limit 0":                      "list: -limit wants 1 to 1000",
		"list -limit 1001":                   "list: -limit wants 1 to 1000",
		"list -limit 1e3":                    `list: invalid value "1e3" for flag -limit: parse error`,
		"list -state dead -since yesterday":  `list: invalid value "yesterday" for flag -since: ` + wantsMoment,
		"list -state dead -since -1h":        `list: invalid value "-1h" for flag -since: ` + wantsMoment,
		"list -state dead -after ÿ":          "list: -after wants the cursor that the page before printed, with the same filters",
		"list -since 1h":                     "list: -since and -until want -state, -retrying or -dismissed",
		"show":                               "show: wants one message ID",
		"show 7":                             "show: " + wantsID + `(got "7")`,
		"show ID ID":                         "show: wants one message ID",
		"wait":                               "wait: wants one message ID",
		"wait -timeout -1s ID":               "wait: -timeout wants 0 or more",
		"wait -timeout 2562048h ID":          `wait: invalid value "2562048h" for flag -timeout: parse error`,
		"doctor now":                         `doctor: unexpected argument "now"`,
		"send":                               "send: wants -destination",
		"send -destination sqs://orders":     "send: wants -type",
		"send -destination sqs://orders -type a -payload x -payload-file y": "send: wants -payload or -payload-file, not both",
		"send -destination sqs://orders -type a -payload x -header novalue": `send: invalid value "novalue" for flag -header: wants name=value`,
		"send -destination sqs://orders -type a -payload x -header =v":      `send: invalid value "=v" for flag -header: wants name=value`,
		"send -destination sqs://orders -type a -payload x -due-in -1h":     `send: invalid value "-1h" for flag -due-in: wants at least 0s`,
		"retry":                       "retry: wants message IDs, or -state, -retrying or -dismissed",
		"retry 7":                     "retry: " + wantsID + `(got "7")`,
		"retry -state pending":        `retry: -state wants dead, expired or cancelled (got "pending")`,
		"retry -state dead ID":        "retry: wants message IDs or a filter, not both",
		"retry -state dead -limit 0":  "retry: -limit wants 1 or more",
		"retry -state dead -rate -1":  "retry: -rate wants messages a second",
		"retry -state dead -rate 0":   "retry: -rate wants messages a second",
		"retry -state dead -rate NaN": "retry: -rate wants messages a second",
		"retry -state dead -rate Inf": "retry: -rate wants messages a second",
		"resend":                      "resend: wants message IDs",
		"resend ID x":                 "resend: " + wantsID + `(got "x")`,
		"cancel":                      "cancel: wants message IDs, or -state or -retrying",
		"cancel -wait -1s ID":         "cancel: -wait wants 0 or more",
		"cancel -state dead":          `cancel: -state wants pending (got "dead")`,
		"redirect ID":                 "redirect: wants -to",
		"reschedule ID":               "reschedule: wants -in or -at",
		"reschedule -in -1h ID":       `reschedule: invalid value "-1h" for flag -in: wants at least 0s`,
		"reschedule -at noon ID":      `reschedule: invalid value "noon" for flag -at: wants a time such as 2026-01-31T08:00:00Z, or a day such as 2026-01-31`,
		"reschedule -in 1h -at 2030-01-01T00:00:00Z ID": "reschedule: wants -in or -at",
		"callback":                           "callback wants retry, set, unset or rules",
		"callback SET sqs://r":               "callback wants retry, set, unset or rules: did you mean set?",
		"callback sett sqs://r":              "callback wants retry, set, unset or rules: did you mean set?",
		"callback -type a":                   "callback wants retry, set, unset or rules",
		"callback retry -type a ID":          "callback retry: has no flag -type",
		"callback retry 7":                   "callback retry: " + wantsID + `(got "7")`,
		"callback rules now":                 `callback rules: unexpected argument "now"`,
		"callback rules -payload":            "callback rules: has no flag -payload",
		"callback unset sqs://r":             `callback unset: unexpected argument "sqs://r"`,
		"callback unset -payload":            "callback unset: has no flag -payload",
		"callback set":                       "callback set: wants one URL, or none",
		"callback set sqs://r sqs://s":       "callback set: wants one URL, or none",
		"callback set -type= sqs://r":        `callback: invalid value "" for flag -type: wants a message type`,
		"callback set -destination= sqs://r": `callback: invalid value "" for flag -destination: wants sqs://queue, sns://topic, rabbitmq://exchange/routing-key, temporal://task-queue/WorkflowType, https://host/path, a queue URL or an ARN: no scheme (got "")`,
		"callback set -payload=2 sqs://r":    `callback: invalid boolean value "2" for -payload: parse error`,
		"callback set -payload none":         "callback set: -payload wants a URL, not none",
		"callback set None":                  wantsURL + `no scheme (did you mean sqs://None?) (got "None")`,
		"callback set http://shop.example/": wantsURL +
			`plain http is for localhost, 127.0.0.0/8 and [::1] alone; others want https (got "http://shop.example/")`,
		"callback set file:///etc/passwd": wantsURL + `unknown scheme "file" (got "file:///etc/passwd")`,
		"callback set https://me@shop.example/": wantsURL +
			`an address wants no user name or password (got "https://shop.example/")`,
		"callback set -limit 1 sqs://r":              "callback: flag provided but not defined: -limit",
		"purge -state pending -older-than 1h":        `purge: -state wants delivered, dead, expired or cancelled (got "pending")`,
		"purge -state dead":                          "purge: wants -older-than",
		"purge -state dead -older-than 1d -limit -1": "purge: -limit wants 0 or more",
	} {
		t.Run(line, func(t *testing.T) {
			out, err := call(nowhere, strings.Fields(strings.ReplaceAll(line, "ID",
				"0198f3a2-5b1c-7000-8000-000000000001"))...)
			require.EqualError(t, err, says)
			var usage program.UsageError
			require.ErrorAs(t, err, &usage)
			assert.Empty(t, out)
		})
	}
}

// Under another name than the daemons' there are no runs: nothing is concluded
// from that.
func TestHostileNames(t *testing.T) {
	for name, value := range map[string]string{"OUTFLOW_OUTBOX": "a/b", "OUTFLOW_TASK_QUEUE": "two words"} {
		settings := map[string]string{"DATABASE_URL": nowhere, "TEMPORAL_ADDRESS": "127.0.0.1:1", name: value}
		runs, _ := commandLine{getenv: func(name string) string { return settings[name] }}.runs(t.Context())
		err := runs.Cancel(t.Context(), "a/b/c")
		require.EqualError(t, err, name+`: wants 1 to 100 letters, digits or any of ". _ -", the first a letter or digit (got "`+value+`")`)
	}
}

// A role's name goes to Postgres as data, which says what it has not.
func TestHostileRoles(t *testing.T) {
	for role, says := range map[string]string{
		"a\x00b": `checking the roles: wants names of Postgres roles (got "a\x00b")`,
		"\xff":   `checking the roles: wants names of Postgres roles (got "\xff")`,
	} {
		_, err := call(nowhere, "grants", "-producer", role)
		require.EqualError(t, err, says)
	}
}
