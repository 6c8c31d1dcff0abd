package temporalwf_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish/temporalwf"
)

// Nothing here connects: every message is refused before.
func nowhere(t *testing.T, o temporalwf.Options) *app {
	t.Helper()
	o.Client = client.Options{HostPort: "127.0.0.1:1", Namespace: o.Client.Namespace}
	p := temporalwf.New(o)
	t.Cleanup(p.Close)
	return &app{publisher: p}
}

func TestParseTargets(t *testing.T) {
	t.Parallel()
	targets, err := temporalwf.ParseTargets(" default/orders/Process , shop/a%2Fb%2Cc/x.Y ")
	require.NoError(t, err)
	assert.True(t, targets.Any())
	assert.ElementsMatch(t, []string{"orders", "a/b,c"}, targets.TaskQueues())
	assert.False(t, temporalwf.Targets{}.Any())
	for list, says := range map[string]string{
		"":                            "number 1 has not three parts",
		"default/orders/Process,":     "number 2 has not three parts",
		"orders/Process":              "number 1 has not three parts",
		"default/orders/Process/x":    "number 1 has not three parts",
		"default//Process":            "number 1 has a part that is empty",
		"default/orders/%zz":          "number 1 has a part that is empty, or is no UTF-8, percent-encoded",
		"default/orders/%00":          "number 1 has a part that is empty, or is no UTF-8",
		"default/orders/\xff":         "number 1 has a part that is empty, or is no UTF-8",
		"temporal-system/orders/Work": "number 1 is never started: names that begin with temporal-sys",
		"default/temporal-sys-tq/X":   "number 1 is never started: names that begin with temporal-sys",
		"default/q/temporal-sys-sched": "number 1 is never started: names that begin with " +
			"temporal-sys",
		"default/outflow-shop/Deliver": "number 1 is never started: task queues that begin with outflow-",
	} {
		_, err := temporalwf.ParseTargets(list)
		assert.ErrorContains(t, err, "wants workflows such as default/orders/ProcessOrder")
		assert.ErrorContains(t, err, says, list)
	}
}

// By default nothing is started. What is not listed waits for the setting, as a row.
func TestOnlyListedWorkflowsAreStarted(t *testing.T) {
	t.Parallel()
	a := nowhere(t, temporalwf.Options{Targets: parsed(t, "shop/orders/Process", "default/a%2Fb/Process"),
		Client: client.Options{Namespace: "shop"}})
	none := nowhere(t, temporalwf.Options{})
	for _, c := range []struct {
		destination string
		listed      bool
	}{
		{"temporal://orders/Process", true}, // in the client's own namespace
		{"temporal://orders/Process?namespace=shop", true},
		{"temporal://orders/Process?existing=use", true},
		{"temporal://orders/Process?signal=pay", true},
		{"temporal://a%2Fb/Process?namespace=default", true},
		{"temporal://orders/Process?namespace=default", false},
		{"temporal://orders/Proces", false},
		{"temporal://Orders/Process", false},
		{"temporal://orders/process", false},
		{"temporal://a%2Fb/Process", false},
	} {
		if c.listed {
			require.NoError(t, a.publisher.Refusal(c.destination), c.destination)
			failedAs(t, none.publisher.Refusal(c.destination), outflow.ClassUnavailable, "OUTFLOW_TEMPORAL_TARGETS")
			continue
		}
		failedAs(t, a.publisher.Refusal(c.destination), outflow.ClassUnavailable, c.destination,
			"is not listed (add it to OUTFLOW_TEMPORAL_TARGETS")
		// Not unavailable: it says nothing about other workflows of the task queue.
		a.fails(t, message(c.destination), outflow.ClassRetryable, "is not listed", "nothing was sent")
		failedAs(t, a.publisher.Check(t.Context(), c.destination), outflow.ClassUnavailable, "is not listed")
	}
	failedAs(t, a.publisher.Refusal("temporal://a%2Fb/x%2Cy"), outflow.ClassUnavailable,
		"shop/a%2Fb/x%2Cy is not listed")
}

// What is Temporal's or Outflow's own is refused for good, whatever the list says.
func TestReservedWorkflowsAreNeverStarted(t *testing.T) {
	t.Parallel()
	a := nowhere(t, temporalwf.Options{
		Targets:  parsed(t, "default/orders/Process", "default/own/Deliver"),
		Outboxes: []string{"outbox", "shop"}, TaskQueues: []string{"own"},
	})
	for destination, says := range map[string]string{
		"temporal://orders/Process?namespace=temporal-system":    "Temporal's own",
		"temporal://temporal-sys-batcher-taskqueue/x":            "Temporal's own",
		"temporal://orders/temporal-sys-scheduler-workflow":      "Temporal's own",
		"temporal://outflow-outbox/Deliver":                      "that begin with outflow- are Outflow's own",
		"temporal://own/Deliver":                                 "the task queue is Outflow's own",
		"temporal://outflow-outbox/Deliver?signal=try-now":       "Outflow's own",
		"temporal://outflow-other/Deliver?namespace=an-other-ns": "Outflow's own",
	} {
		require.NoError(t, a.publisher.Refusal(destination), "a run ends it dead")
		a.fails(t, named(message(destination), "x"), outflow.ClassPermanent, "it is never started", says)
	}
	for id, says := range map[string]string{
		"outbox/018f6a3e-7c1b-7d5e-9b1a-2f6f0c9d4e11": "begin with outbox/ are Outflow's own",
		"shop/maintain":              "begin with shop/ are Outflow's own",
		"temporal-sys-scheduler:own": "are Temporal's own",
	} {
		for _, query := range []string{"", "?signal=try-now"} {
			a.fails(t, named(message("temporal://orders/Process"+query), id), outflow.ClassPermanent, says)
		}
	}
	require.NoError(t, a.publisher.Refusal("temporal://orders/Process"))
}

func TestOtherDestinations(t *testing.T) {
	t.Parallel()
	a := nowhere(t, temporalwf.Options{})
	assert.Equal(t, "temporal", a.publisher.Scheme())
	a.fails(t, message("sqs://orders"), outflow.ClassPermanent,
		"starting sqs://orders: only temporal:// is published here")
	a.fails(t, message("temporal://orders"), outflow.ClassPermanent, "reading the destination", "redirect the message")
	failedAs(t, a.publisher.Check(t.Context(), "sqs://orders"), outflow.ClassPermanent, "only temporal://")
	failedAs(t, a.publisher.Check(t.Context(), "temporal://orders"), outflow.ClassPermanent, "reading the destination")
	require.NoError(t, a.publisher.Refusal("sqs://orders"))
	require.NoError(t, a.publisher.Refusal("temporal://orders"))
}

func TestCheck(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	err := a.publisher.Check(t.Context(), a.to("Process"))
	failedAs(t, err, outflow.ClassRetryable, "no worker polls the task queue")
	a.publish(t, message(a.to("Process"))) // which Temporal takes
	a.work(t, a.client)
	require.Eventually(t, func() bool { return a.publisher.Check(t.Context(), a.to("Process")) == nil },
		time.Minute, 20*time.Millisecond)
	require.NoError(t, a.publisher.Check(t.Context(), a.to("Another", "signal=step")))

	err = a.publisher.Check(t.Context(), a.to("Process", "namespace="+missingNamespace))
	failedAs(t, err, outflow.ClassPermanent, missingNamespace)
	assert.ErrorIs(t, err, outflow.ErrNoDestination)
	assert.True(t, strings.HasPrefix(err.Error(), "looking up temporal://"))
}

// A closed publisher sends nothing.
func TestClose(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	a.publish(t, message(a.to("Process")))
	a.publisher.Close()
	err := a.fails(t, message(a.to("Process")), outflow.ClassRetryable, "the publisher is closed")
	assert.ErrorIs(t, err, outflow.ErrNotAttempted)
}
