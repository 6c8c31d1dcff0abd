package e2e

import (
	"os"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/devstack/faults"
	"github.com/outflowhq/outflow/devstack/rabbitmq"
)

// requireRabbitMQ is set where RabbitMQ must be there, as in CI. Elsewhere its test is skipped
// without.
const requireRabbitMQ = "OUTFLOW_TEST_REQUIRES_RABBITMQ"

// TestRabbitMQIsKilledUnderLoad: what was confirmed is there when it is back, the rest is sent
// then, and a message is sent twice only where no confirm was heard.
func TestRabbitMQIsKilledUnderLoad(t *testing.T) {
	if !rabbitmq.Installed() && os.Getenv(requireRabbitMQ) == "" {
		t.Skip("RabbitMQ is not installed: " + rabbitmq.HowToInstall)
	}
	rabbit, err := shared.StartRabbit(t.Context())
	require.NoError(t, err)
	require.NoError(t, rabbit.Bind("payments", "order.paid"))
	w := newWorld(t)
	w.env = append(append(w.env, "OUTFLOW_LEASE=30s"), rabbit.Env()...)
	f := &fault{world: w}
	for _, name := range []string{faults.Worker, faults.Starter} {
		f.supervise(name)
	}
	destination := outflow.Destination{Scheme: "rabbitmq", Name: "payments", RoutingKey: "order.paid"}.String()
	load := w.StartLoad(rate, destination, destination, destination, "sqs://orders")
	t.Cleanup(load.Stop)
	delivered := func(more int) {
		t.Helper()
		before := w.count("state = 'delivered' AND destination LIKE 'rabbitmq:%'")
		w.eventually(time.Minute, "deliveries to RabbitMQ flow", func() bool {
			return w.count("state = 'delivered' AND destination LIKE 'rabbitmq:%'") >= before+more
		})
	}
	delivered(2 * rate)
	require.NoError(t, rabbit.Crash())
	w.eventually(time.Minute, "messages wait", func() bool {
		return w.count("state = 'pending' AND destination LIKE 'rabbitmq:%'") > 2*rate
	})
	require.NoError(t, rabbit.Start(t.Context()))
	delivered(2 * rate)
	load.Stop()
	_, err = w.Drain(t.Context())
	require.NoError(t, err)

	committed, rows, err := load.Rows(t.Context())
	require.NoError(t, err)
	there, err := rabbit.Take("payments")
	require.NoError(t, err)
	var lost []uuid.UUID
	for _, id := range committed {
		require.Equal(t, "delivered", rows[id].State, "%s: %s", id, rows[id].LastError)
		if rows[id].Destination == destination && there[id] == 0 {
			lost = append(lost, id)
		}
	}
	require.Empty(t, lost)
	again := rabbit.Judge()
	require.Empty(t, again.Unexplained)
	t.Logf("%d messages, %d of them sent again because no confirm was heard", len(committed), again.Explained)
}
