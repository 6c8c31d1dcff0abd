package service

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/internal/callbacks"
	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/namespace"
	"github.com/outflowhq/outflow/scanner"
	"github.com/outflowhq/outflow/workflows"
)

func TestOutboxesHaveTaskQueuesOfTheirOwn(t *testing.T) {
	assert.NotEqual(t, taskQueue(scanner.Options{}), taskQueue(scanner.Options{Outbox: "shop"}))
	assert.Equal(t, "outflow-shop", taskQueue(scanner.Options{Outbox: "shop"}))
	assert.Equal(t, "jobs", taskQueue(scanner.Options{Outbox: "shop", TaskQueue: "jobs"}))
}

// tally is a broker that refuses each message once, so that it goes on where any
// worker may take it.
type tally struct {
	mu    sync.Mutex
	tried map[uuid.UUID]int
}

func (b *tally) Publish(_ context.Context, m outflow.Message) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tried[m.ID]++
	if b.tried[m.ID] == 1 {
		return "", errDown
	}
	return "b", nil
}

// times is how often a message was tried.
func (b *tally) times(id uuid.UUID) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.tried[id]
}

// Two databases share a namespace and a task queue, under two names of an outbox and
// under one: each message goes out once, by its own side, each callback is sent, and
// neither's schedule purges the other's rows.
func TestTwoDatabasesOnOneTaskQueue(t *testing.T) {
	t.Parallel()
	for _, names := range []string{"two", "one"} {
		t.Run(names, func(t *testing.T) {
			t.Parallel()
			sides := []*world{newWorld(t), newWorld(t)}
			sides[1].opts.TaskQueue = sides[0].opts.TaskQueue
			if names == "one" {
				sides[1].opts.Outbox = sides[0].opts.Outbox
			}
			brokers := []*tally{{tried: map[uuid.UUID]int{}}, {tried: map[uuid.UUID]int{}}}
			ids := make([][]uuid.UUID, 2)
			for i, w := range sides {
				_, err := w.pool.Exec(t.Context(),
					`INSERT INTO outbox.messages (id, destination, type, payload, state, finished_at)
					SELECT gen_random_uuid(), 'sqs://old', 'a', '{}', 'delivered', now() - interval '1 day' FROM generate_series(1, 20)`)
				require.NoError(t, err)
				run := worker.New(w.client, w.opts.TaskQueue, workerOptions(config.Config{}, make(chan error, 1)))
				workflows.Register(run, activities.New(w.store, brokers[i],
					activities.WithCallbacks(callbacks.Sender{HTTPS: w.receiver})))
				workflows.RegisterMaintain(run, activities.NewMaintenance(w.store))
				require.NoError(t, run.Start())
				t.Cleanup(run.Stop)
				for n := range 5 {
					ids[i] = append(ids[i], w.enqueueMessage(outflow.Message{
						Destination: fmt.Sprintf("sqs://orders-%d",
							n), Type: "order-placed", Payload: []byte("{}"), Callback: done}))
				}
				w.scan()
			}
			// The first side keeps its rows forever; the second purges.
			run, err := sides[1].client.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{
				ID: workflows.MaintainID(sides[1].opts.Outbox), TaskQueue: sides[1].opts.TaskQueue,
			}, workflows.WorkflowMaintain, workflows.MaintainInput{
				Outbox: sides[1].opts.Outbox, Database: sides[1].database(), Retention: outflow.Retention{Delivered: outflow.MinKeep}})
			require.NoError(t, err)
			for i, w := range sides {
				for _, id := range ids[i] {
					// Each refusal is a matter of chance, and may come many times in a row.
					require.Eventually(t, func() bool {
						return w.row(id).State == outflow.Delivered &&
							w.callback(id).State == "sent"
					},
						10*time.Minute, 20*time.Millisecond, id)
					assert.Equal(t, 2, brokers[i].times(id), "once refused, once taken")
					assert.Zero(t, brokers[1-i].times(id))
				}
			}
			var result workflows.MaintainResult
			require.NoError(t, run.Get(t.Context(), &result))
			assert.Equal(t, 20, result.Purged.Delivered)
			for i, left := range []int{20, 0} {
				var old int
				require.NoError(t, sides[i].pool.QueryRow(t.Context(),
					`SELECT count(*) FROM outbox.messages WHERE destination = 'sqs://old'`).Scan(&old))
				assert.Equal(t, left, old)
			}
		})
	}
}

// Two databases under one name want one schedule: the last program to start has it,
// and each says so.
func TestScheduleOfAnotherDatabase(t *testing.T) {
	t.Parallel()
	w, other := newWorld(t), newWorld(t)
	other.opts.Outbox = w.opts.Outbox
	parts := func(w *world, logged *notes) *parts {
		return &parts{client: w.client, store: w.store, log: logged.logger()}
	}
	var first, second notes
	a, b := parts(w, &first), parts(other, &second)
	c := configOf(w)
	require.True(t, a.schedule(c).Write(t.Context()))
	t.Cleanup(func() {
		_ = w.client.ScheduleClient().GetHandle(context.Background(),
			workflows.MaintainID(w.opts.Outbox)).Delete(context.Background())
	})
	require.True(t, a.schedule(c).Write(t.Context()))
	assert.Empty(t, first.String(), "it is its own")
	require.True(t, b.schedule(c).Write(t.Context()))
	const said = "the schedule maintains another database"
	assert.Contains(t, second.String(), said)
	require.True(t, a.schedule(c).WriteDeleted(t.Context()))
	assert.Contains(t, first.String(), said)
	found, err := namespace.FindSchedule(t.Context(), w.client, client.DefaultNamespace, w.opts.Outbox)
	require.NoError(t, err)
	assert.Equal(t, other.database(), found.Database, "a look leaves it")
}
