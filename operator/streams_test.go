package operator

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/workflows"
)

func TestStreamBounds(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := newActs(pool)
	set := func(destination string, above int) *int {
		was, err := o.SetStream(t.Context(), destination, above, ada)
		require.NoError(t, err)
		return was
	}
	all := func() map[string]*int {
		found, err := o.Streams(t.Context())
		require.NoError(t, err)
		bounds := map[string]*int{}
		for _, s := range found {
			assert.Equal(t, StreamNone, s.State)
			assert.Equal(t, workflows.StreamID("outbox", s.Destination), s.WorkflowID)
			bounds[s.Destination] = s.Above
		}
		return bounds
	}
	number := func(n int) *int { return &n }
	assert.Nil(t, set("sqs://a", 100))
	assert.Equal(t, number(100), set("sqs://a", 0))
	assert.Nil(t, set("rabbitmq://orders/placed", 5))
	assert.Equal(t, map[string]*int{"sqs://a": number(0), "rabbitmq://orders/placed": number(5)}, all())

	bob := Actor{Who: "bob"}
	for destination, found := range map[string]bool{"sqs://a": true, "sqs://b": false, "sqs://a\x00": false} {
		got, err := o.UnsetStream(t.Context(), destination, bob)
		require.NoError(t, err)
		assert.Equal(t, found, got, destination)
	}
	again, err := o.UnsetStream(t.Context(), "sqs://a", bob)
	require.NoError(t, err)
	assert.False(t, again)
	assert.Equal(t, map[string]*int{"rabbitmq://orders/placed": number(5)}, all())
	// What is known of a stream outlives its bound.
	require.NoError(t, outboxdb.New(pool).NoteStream(t.Context(),
		outbox.StreamState{Destination: "rabbitmq://orders/placed"}, true))
	_, err = o.UnsetStream(t.Context(), "rabbitmq://orders/placed", bob)
	require.NoError(t, err)
	streams, err := o.Streams(t.Context())
	require.NoError(t, err)
	require.Len(t, streams, 1)
	assert.Nil(t, streams[0].Above)
	assert.Equal(t, StreamRuns, streams[0].State)

	assert.ElementsMatch(t, []string{
		`set-stream sqs://a ada@host the queue is back {"above": 100}`,
		`set-stream sqs://a ada@host the queue is back {"was": 100, "above": 0}`,
		`set-stream rabbitmq://orders/placed ada@host the queue is back {"above": 5}`,
		`unset-stream sqs://a bob  {"was": 0}`,
		`unset-stream rabbitmq://orders/placed bob  {"was": 5}`,
	}, streamAudit(t, o))

	for destination, wants := range map[string]string{
		"https://shop.example/in?token=hunter2": "https takes one message a call",
		"temporal://orders/Process":             "temporal takes one message a call",
		"nonsense":                              "wants sqs://queue",
		"sqs://a\x00":                           "wants valid UTF-8 without NUL",
	} {
		_, err := o.SetStream(t.Context(), destination, 1, ada)
		var invalid *InvalidRuleError
		require.ErrorAs(t, err, &invalid, destination)
		assert.ErrorContains(t, err, "destination: "+wants)
		assert.NotContains(t, err.Error(), "hunter2")
	}
	_, err = o.SetStream(t.Context(), "sqs://a", -1, ada)
	require.ErrorContains(t, err, "streams_above")
}

func streamAudit(t *testing.T, o acts) []string {
	t.Helper()
	return values[string](t, o.pool.Unwrap(), `
		SELECT act || ' ' || destination || ' ' || who || ' ' || why || ' ' || detail
		FROM outbox.audit ORDER BY id`)
}

// How a stream stands follows from what its holder noted, and when.
func TestStreamStates(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o, store := newActs(pool), outboxdb.New(pool)
	note := func(ended outbox.StreamEnd, first bool) {
		require.NoError(t, store.NoteStream(t.Context(), outbox.StreamState{
			Destination: "sqs://a", Ended: ended,
			Progress: outbox.Progress{Delivered: 7, Dead: 2, HandedOver: 1, PerSecond: 30},
		}, first))
	}
	stands := func() Stream {
		found, err := o.Streams(t.Context())
		require.NoError(t, err)
		require.Len(t, found, 1)
		return found[0]
	}
	note("", true)
	s := stands()
	assert.Equal(t, StreamRuns, s.State)
	assert.True(t, s.Open())
	assert.Equal(t, []int64{7, 2, 1, 30}, []int64{s.Delivered, s.Dead, s.HandedOver, int64(s.PerSecond)})
	assert.NotNil(t, s.StartedAt)
	assert.Nil(t, s.EndedAt)
	for _, ended := range []outbox.StreamEnd{
		outbox.StreamDrained, outbox.StreamFailing, outbox.StreamCancelled, outbox.StreamPaused,
	} {
		note(ended, false)
		s = stands()
		assert.Equal(t, string(ended), s.State)
		assert.Equal(t, ended == outbox.StreamPaused, s.Open())
		assert.True(t, s.Recent)
		assert.NotNil(t, s.EndedAt)
	}
	execute(t, pool, `UPDATE outbox.streams SET ended_at = now() - interval '61 minutes'`)
	assert.False(t, stands().Recent)

	note("", true)
	execute(t, pool, `UPDATE outbox.streams SET runs_until = now() - interval '1 second'`)
	s = stands()
	assert.Equal(t, StreamSilent, s.State)
	assert.False(t, s.Open())
	assert.True(t, s.Recent)
	assert.NotNil(t, s.EndedAt)
}

func (b *broker) Refusal(string) error { return nil }

// PublishBatch has the test's broker take the messages of a stream one by one.
func (b *broker) PublishBatch(ctx context.Context, destination string, messages []outflow.Message) []publish.Result {
	results := make([]publish.Result, len(messages))
	for i, m := range messages {
		m.Destination = destination
		results[i].BrokerMessageID, results[i].Err = b.Publish(ctx, m)
	}
	return results
}

// workStreams starts a worker of streams.
func (w *world) workStreams() {
	w.Helper()
	store := outboxdb.New(w.pool)
	run := worker.New(w.client, workflows.StreamTaskQueue(w.opts.TaskQueue),
		worker.Options{WorkerStopTimeout: 15 * time.Second})
	workflows.RegisterStream(run, activities.NewStreams(activities.New(store, w.broker), store, w.broker))
	require.NoError(w, run.Start())
	w.Cleanup(run.Stop)
}

func (w *world) startStream(destination string) StartedStream {
	w.Helper()
	started, err := w.operator.StartStream(w.Context(), destination, w.opts.TaskQueue, w.by)
	require.NoError(w, err)
	return started
}

func (w *world) stream(destination string) Stream {
	w.Helper()
	s, err := w.operator.stream(w.Context(), destination)
	require.NoError(w, err)
	return s
}

// A stream is started once, delivers, and is stopped once.
func TestStartAndStopAStream(t *testing.T) {
	t.Parallel()
	const destination = "sqs://orders"
	w := newWorld(t)
	_, err := w.operator.StartStream(t.Context(), destination, w.opts.TaskQueue, w.by)
	require.ErrorIs(t, err, ErrNoDatabaseID)
	_, err = outboxdb.New(w.pool).DatabaseID(t.Context())
	require.NoError(t, err)
	_, err = w.operator.StartStream(t.Context(), "https://shop.example/in", w.opts.TaskQueue, w.by)
	require.ErrorContains(t, err, "https takes one message a call")

	id := w.enqueue(destination)
	first := w.startStream(destination)
	assert.Equal(t, StartedStream{Destination: destination, WorkflowID: workflows.StreamID(w.opts.Outbox, destination),
		RunID: first.RunID, State: StreamSilent}, first, "no worker takes streams")
	assert.NotEmpty(t, first.RunID)
	again := w.startStream(destination)
	assert.Empty(t, again.RunID)
	assert.Equal(t, StreamSilent, again.State)

	w.workStreams()
	w.untilState(id, outflow.Delivered)
	assert.Len(t, w.broker.got(id), 1)
	again = w.startStream(destination)
	assert.Empty(t, again.RunID)
	assert.Equal(t, StreamRuns, again.State)
	d, err := w.operator.Show(t.Context(), id, false)
	require.NoError(t, err)
	assert.Equal(t, StreamEnded, d.Stream)
	require.NotNil(t, d.Run, d.NoRun)
	assert.Equal(t, []string{first.WorkflowID, first.RunID}, []string{d.WorkflowID, d.Run.RunID})

	require.NoError(t, w.operator.StopStream(t.Context(), destination, w.by))
	require.Eventually(t, func() bool { return w.stream(destination).State == string(outbox.StreamCancelled) },
		20*time.Second, time.Millisecond)
	between := w.startStream(destination) // the run may still be open
	assert.NotEmpty(t, between.RunID)
	require.NoError(t, w.operator.StopStream(t.Context(), destination, w.by))
	require.Error(t, w.client.GetWorkflow(t.Context(), first.WorkflowID, first.RunID).
		Get(t.Context(), nil), "cancelled")
	require.Error(t, w.client.GetWorkflow(t.Context(), first.WorkflowID, between.RunID).
		Get(t.Context(), nil), "cancelled")
	require.ErrorIs(t, w.operator.StopStream(t.Context(), destination, w.by), ErrNoRun)
	require.ErrorIs(t, w.operator.StopStream(t.Context(), "sqs://other", w.by), ErrNoRun)

	next := w.startStream(destination)
	assert.NotEmpty(t, next.RunID)
	assert.Equal(t, StreamRuns, next.State, "a worker has taken it")
	assert.NotEqual(t, first.RunID, next.RunID)
	d, err = w.operator.Show(t.Context(), id, false)
	require.NoError(t, err)
	assert.Nil(t, d.Run)
	assert.Equal(t, "none of its own: an earlier run of the stream had it", d.NoRun)
	assert.Equal(t, []string{
		`start-stream sqs://orders ada@host  {"run": "` + first.RunID + `"}`,
		`stop-stream sqs://orders ada@host  {"run": "` + first.RunID + `"}`,
		`start-stream sqs://orders ada@host  {"run": "` + between.RunID + `"}`,
		`stop-stream sqs://orders ada@host  {"run": "` + between.RunID + `"}`,
		`start-stream sqs://orders ada@host  {"run": "` + next.RunID + `"}`,
	}, values[string](t, w.pool, `
		SELECT act || ' ' || destination || ' ' || who || ' ' || why || ' ' || detail
		FROM outbox.audit WHERE act LIKE '%stream' ORDER BY id`))
}

// A stream that was paused and is stopped is paused no more, and starters may begin another.
func TestStopAPausedStream(t *testing.T) {
	t.Parallel()
	const destination = "sqs://orders"
	w := newWorld(t)
	store := outboxdb.New(w.pool)
	_, err := store.DatabaseID(t.Context())
	require.NoError(t, err)
	id := w.enqueue(destination)
	w.startStream(destination) // no worker takes it
	require.NoError(t, store.NoteStream(t.Context(),
		outbox.StreamState{Destination: destination, Ended: outbox.StreamPaused}, true))
	assert.Equal(t, string(outbox.StreamPaused), w.startStream(destination).State)
	wanted := func() []string {
		w.execute(`UPDATE outbox.streams SET not_before = NULL`)
		all, err := store.WantStreams(t.Context(), []string{destination}, 1)
		require.NoError(t, err)
		return all
	}
	_ = w.enqueue(destination)
	require.NoError(t, w.operator.StopStream(t.Context(), destination, w.by))
	assert.Equal(t, string(outbox.StreamCancelled), w.stream(destination).State)
	assert.True(t, value[bool](t, w.pool, `SELECT not_before > now() FROM outbox.streams`))
	assert.Equal(t, []string{destination}, wanted())
	assert.Equal(t, outflow.Pending, w.row(id).State)

	// Its run is gone, such as terminated in the Web UI.
	require.NoError(t, store.NoteStream(t.Context(),
		outbox.StreamState{Destination: destination, Ended: outbox.StreamPaused}, false))
	require.NoError(t, w.client.TerminateWorkflow(t.Context(), workflows.StreamID(w.opts.Outbox, destination), "",
		"a test"))
	require.NoError(t, w.operator.StopStream(t.Context(), destination, w.by))
	assert.Equal(t, string(outbox.StreamCancelled), w.stream(destination).State)
	require.ErrorIs(t, w.operator.StopStream(t.Context(), destination, w.by), ErrNoRun)
}

// refusing is a namespace without the search attributes.
type refusing struct {
	client.Client
	starts []client.StartWorkflowOptions
	err    error
}

type startedRun struct{ client.WorkflowRun }

func (startedRun) GetRunID() string { return "run-1" }

func (r *refusing) ExecuteWorkflow(
	_ context.Context, options client.StartWorkflowOptions, _ any, _ ...any,
) (client.WorkflowRun, error) {
	r.starts = append(r.starts, options)
	if options.TypedSearchAttributes.Size() > 0 {
		return nil, serviceerror.NewInvalidArgument("no mapping defined for search attribute OutflowDestination")
	}
	return startedRun{}, r.err
}

func TestStartStreamWithoutSearchAttributes(t *testing.T) {
	options := workflows.StreamOptions("outbox", "outflow-outbox", "sqs://orders")
	require.Equal(t, "outflow-outbox-streams", options.TaskQueue)
	c := &refusing{}
	runID, err := NewRuns(c).StartStream(t.Context(), options, workflows.StreamInput{})
	require.NoError(t, err)
	assert.Equal(t, "run-1", runID)
	require.Len(t, c.starts, 2)
	assert.Equal(t, options.ID, c.starts[1].ID)

	c.err = serviceerror.NewWorkflowExecutionAlreadyStarted("it runs", "", "run-1")
	_, err = NewRuns(c).StartStream(t.Context(), options, workflows.StreamInput{})
	require.ErrorIs(t, err, ErrRunOpen)
	c.err = errAway
	_, err = NewRuns(c).StartStream(t.Context(), options, workflows.StreamInput{})
	require.ErrorIs(t, err, errAway)
}

// Without Temporal nothing is noted.
func TestStreamsWithoutTemporal(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	_, err := outboxdb.New(pool).DatabaseID(t.Context())
	require.NoError(t, err)
	o := New(pool, &noTemporal{}, "")
	_, err = o.StartStream(t.Context(), "sqs://orders", "outflow-outbox", ada)
	require.ErrorIs(t, err, errAway)
	require.ErrorIs(t, o.StopStream(t.Context(), "sqs://orders", ada), errAway)
	assert.Zero(t, value[int](t, pool, `SELECT count(*) FROM outbox.audit`))
}

// closingRun is a Temporal whose one run was asked to cancel, and closes a moment later.
type closingRun struct {
	noTemporal
	closesAt time.Time
}

func (c *closingRun) open() bool { return time.Now().Before(c.closesAt) }

func (c *closingRun) Describe(context.Context, string) (Run, error) {
	return Run{Cancelling: c.open()}, nil
}

func (c *closingRun) StartStream(
	context.Context, client.StartWorkflowOptions, workflows.StreamInput,
) (string, error) {
	if c.open() {
		return "", ErrRunOpen
	}
	return "run-2", nil
}

// A start right after a stop waits for the stopped run to close, which has noted no end yet.
func TestStartStreamAfterAStop(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	_, err := outboxdb.New(pool).DatabaseID(t.Context())
	require.NoError(t, err)
	o := New(pool, &closingRun{closesAt: time.Now().Add(time.Second)}, "")
	runID, err := o.startStream(t.Context(), client.StartWorkflowOptions{}, workflows.StreamInput{},
		Stream{State: StreamRuns})
	require.NoError(t, err)
	require.Equal(t, "run-2", runID)
}

// startedElsewhere is a Temporal in which a starter has just begun the stream.
type startedElsewhere struct {
	noTemporal
	note func()
}

func (s *startedElsewhere) StartStream(
	context.Context, client.StartWorkflowOptions, workflows.StreamInput,
) (string, error) {
	s.note()
	return "", ErrRunOpen
}

func (s *startedElsewhere) Describe(context.Context, string) (Run, error) { return Run{}, nil }

// A starter begins the stream at the same moment: the answer is that it runs.
func TestStartStreamBesideAStarter(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	_, err := store.DatabaseID(t.Context())
	require.NoError(t, err)
	o := New(pool, &startedElsewhere{note: func() {
		require.NoError(t, store.AnnounceStream(t.Context(), "sqs://orders"))
	}}, "")
	started, err := o.StartStream(t.Context(), "sqs://orders", "outflow-outbox", ada)
	require.NoError(t, err)
	assert.Empty(t, started.RunID)
	assert.Equal(t, StreamRuns, started.State)
}

// closedMeanwhile is a Temporal whose run closes before it can be cancelled.
type closedMeanwhile struct{ noTemporal }

func (closedMeanwhile) Describe(context.Context, string) (Run, error) {
	return Run{RunID: "run-1"}, nil
}

func (closedMeanwhile) Cancel(context.Context, string) error { return ErrNoRun }

// A run that closes by itself was not stopped, and the audit does not say so.
func TestStopStreamThatCloses(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := New(pool, &closedMeanwhile{}, "")
	require.ErrorIs(t, o.StopStream(t.Context(), "sqs://orders", ada), ErrNoRun)
	assert.Zero(t, value[int](t, pool, `SELECT count(*) FROM outbox.audit`))
}

// A role that can't write the audit has Temporal do nothing.
func TestStreamsOfARoleWithoutTheAudit(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	config := pool.Config()
	role := "dispatcher_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	execute(t, pool, `CREATE ROLE `+role)
	t.Cleanup(func() {
		_, _ = pool.Exec(context.Background(), `DROP OWNED BY `+role+`; DROP ROLE `+role)
	})
	require.NoError(t, Grants{Dispatchers: []string{role}}.Apply(t.Context(), pool))
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `SET ROLE `+role)
		return err
	}
	as, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(as.Close)
	temporal := &noTemporal{}
	o := New(as, temporal, "")
	_, err = o.StartStream(t.Context(), "sqs://orders", "outflow-outbox", ada)
	require.ErrorIs(t, err, errNoAudit)
	require.ErrorIs(t, o.StopStream(t.Context(), "sqs://orders", ada), errNoAudit)
	require.Zero(t, temporal.asked)
}
