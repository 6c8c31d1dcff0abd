package scanner_test

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.uber.org/goleak"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/scanner"
	"github.com/outflowhq/outflow/workflows"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// claim is one Claim as it was asked for.
type claim struct {
	at      time.Time
	request outbox.ClaimRequest
}

// table is outbox.messages in memory, as far as a scanner sees it.
type table struct {
	mu    sync.Mutex
	due   []outbox.Record
	held  map[outbox.Ref]hold
	err   error
	slow  time.Duration // what a claim takes
	wrong bool          // giving back fails
	batch int           // at most so many in a claim, as a bound in bytes makes it
	blind time.Time     // until then, claims see no destination
	more  time.Duration // there are more destinations, which a claim sees after that

	payload []byte // of each message; nil for a short one
	refused map[string]error
	missing map[string]string
	ended   []outflow.Outcome // at the next claim
	unknown string            // no message has reached destinations that begin with it

	quarantined    []outbox.Record
	isolated       []int // what was held at each ClaimIsolated
	isolatedErr    error
	breakerActive  bool
	probes, found  []outbox.Probe
	recovered      []outbox.Recovered
	retrying       []outbox.Leased
	paged          map[outbox.Recovered]int // how many of these were given
	freed          []outbox.Leased
	callbacks      []outbox.DueCallback
	callbackRounds []time.Time
	recoveries     int

	deferred      int // looks until none is deferred any more
	deferredLooks []time.Time
	onRelease     func()

	announced []outbox.Process
	withdrawn []uuid.UUID
	looks     bool // whether TakeFound was given a look

	claims                         []claim
	claimed                        int
	released, uncounted, forgotten []outbox.Ref

	full            []string // of each claim
	streams         []string // that are worth a stream
	streamLooks     []streamLook
	streamLookTakes time.Duration
	streamed        []string // that starters leave to a stream
	lostPageLooks   int
	lost            int // messages of lost pages, for the next look
}

type hold struct{ taken, settled chan struct{} }

var _ scanner.Store = (*table)(nil)

func newTable() *table {
	return &table{held: map[outbox.Ref]hold{}, paged: map[outbox.Recovered]int{}}
}

// enqueue makes n messages to a destination due.
func (t *table) enqueue(destination string, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for range n {
		t.due = append(t.due, outbox.Record{
			Message: outflow.Message{
				ID: uuid.Must(uuid.NewV7()), Destination: destination, Type: "order-placed",
				Payload: []byte(cmp.Or(string(t.payload), "the payload")),
			},
			State: outflow.Pending, Generation: 1,
		})
	}
}

func (t *table) Claim(ctx context.Context, req outbox.ClaimRequest) (outbox.Claimed, error) {
	t.mu.Lock()
	t.claims = append(t.claims, claim{time.Now(), req})
	slow, err := t.slow, t.err
	t.mu.Unlock()
	select {
	case <-ctx.Done():
		return outbox.Claimed{}, ctx.Err()
	case <-time.After(slow):
	}
	if err != nil {
		return outbox.Claimed{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if blind := time.Until(t.blind); blind > 0 {
		return outbox.Claimed{NewDestinationsIn: blind}, nil
	}
	open := maps.Clone(req.Open)
	if open == nil {
		open = map[string]int{}
	}
	result := outbox.Claimed{Refused: t.refused, Missing: t.missing, Ended: t.ended, BreakerActive: t.breakerActive,
		QuarantinedDue: len(t.quarantined) > 0, Deferred: t.deferred > 0,
		MoreDestinations: t.more > 0, NewDestinationsIn: t.more, Full: t.full}
	t.ended = nil
	t.due = slices.DeleteFunc(t.due, func(r outbox.Record) bool {
		if len(result.Messages) >= req.MaxMessages || t.batch > 0 && len(result.Messages) >= t.batch ||
			open[r.Destination] >= req.Allowance {
			result.Backlog = true
			return false
		}
		open[r.Destination]++
		h := hold{make(chan struct{}), make(chan struct{})}
		t.held[r.Ref()] = h
		t.claimed++
		result.Messages = append(result.Messages, outbox.ClaimedMessage{
			Record: r, LeasedUntil: time.Now().Add(req.Lease), Shares: []string{r.Destination}, Taken: h.taken, Settled: h.settled,
			NewDestination: t.unknown != "" && strings.HasPrefix(r.Destination, t.unknown),
		})
		return true
	})
	return result, nil
}

// ClaimIsolated claims the first quarantined message.
func (t *table) ClaimIsolated(_ context.Context, lease time.Duration) ([]outbox.ClaimedMessage, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.isolated = append(t.isolated, len(t.held))
	if len(t.quarantined) == 0 || t.isolatedErr != nil {
		return nil, t.isolatedErr
	}
	r := t.quarantined[0]
	t.quarantined = t.quarantined[1:]
	h := hold{make(chan struct{}), make(chan struct{})}
	t.held[r.Ref()] = h
	return []outbox.ClaimedMessage{{Record: r, LeasedUntil: time.Now().Add(lease), Shares: []string{r.Destination},
		Taken: h.taken, Settled: h.settled}}, nil
}

// theDatabase is the table's.
var theDatabase = uuid.MustParse("6f757466-6c6f-4077-8000-000000000001")

func (*table) DatabaseID(context.Context) (uuid.UUID, error) { return theDatabase, nil }

// Announce notes the process.
func (t *table) Announce(_ context.Context, p outbox.Process) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.announced = append(t.announced, p)
	return nil
}

// Withdraw notes its end.
func (t *table) Withdraw(_ context.Context, id uuid.UUID) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.withdrawn = append(t.withdrawn, id)
	return nil
}

func (t *table) TakeFound(_ context.Context, look func(context.Context, string) error) ([]outbox.Probe, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.looks = look != nil
	found := t.found
	t.found = nil
	return found, nil
}

func (t *table) TakeProbes(context.Context) ([]outbox.Probe, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.recoveries++
	probes := t.probes
	t.probes = nil
	return probes, nil
}

func (t *table) TakeRecovered(context.Context) ([]outbox.Recovered, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.recovered), nil
}

func (t *table) ForgetRecovered(_ context.Context, r outbox.Recovered) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.recovered = slices.DeleteFunc(t.recovered, func(o outbox.Recovered) bool { return o == r })
	t.breakerActive = len(t.recovered) > 0
	return nil
}

// Retrying pages through retrying, which is in the order of the IDs.
func (t *table) Retrying(_ context.Context, r outbox.Recovered, limit int) ([]outbox.Leased, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	from := min(t.paged[r], len(t.retrying))
	page := t.retrying[from:min(from+limit, len(t.retrying))]
	t.paged[r] = from + len(page)
	return page, nil
}

func (t *table) Release(_ context.Context, m outbox.Leased) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.freed = append(t.freed, m)
	return nil
}

// TakeCallbacks leases for good.
func (t *table) TakeCallbacks(_ context.Context, limit int, _ time.Duration) ([]outbox.DueCallback, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.callbackRounds = append(t.callbackRounds, time.Now())
	n := min(limit, len(t.callbacks))
	due := t.callbacks[:n:n]
	t.callbacks = t.callbacks[n:]
	return due, nil
}

func (t *table) GiveBack(ctx context.Context, m outbox.ClaimedMessage, why outbox.GiveBackReason) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch why {
	case outbox.RunOpen:
		t.uncounted = append(t.uncounted, m.Ref())
		return nil
	case outbox.RunElsewhere:
		t.forgotten = append(t.forgotten, m.Ref())
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if t.wrong {
		return context.DeadlineExceeded
	}
	t.released = append(t.released, m.Ref())
	t.due = append(t.due, m.Record)
	delete(t.held, m.Ref())
	return nil
}

func (t *table) hold(ref outbox.Ref) hold {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.held[ref]
}

// claimsSince counts the claims from a moment on.
func (t *table) claimsSince(at time.Time) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.claims) - slices.IndexFunc(append(slices.Clone(t.claims), claim{at: time.Now().Add(time.Hour)}),
		func(c claim) bool { return !c.at.Before(at) })
}

// seen is what the table has noted so far.
func (t *table) seen() *table {
	t.mu.Lock()
	defer t.mu.Unlock()
	return &table{
		claims: slices.Clone(t.claims), claimed: t.claimed,
		released: slices.Clone(t.released), uncounted: slices.Clone(t.uncounted), forgotten: slices.Clone(t.forgotten),
	}
}

func (t *table) set(edit func(*table)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	edit(t)
}

// start is one ExecuteWorkflow.
type start struct {
	at      time.Time
	options client.StartWorkflowOptions
	name    any
	input   workflows.DeliverInput
}

// engine is Temporal with this process's worker on it: a start takes latency,
// its run takes the message over and settles it after fastPath.
type engine struct {
	table *table

	mu        sync.Mutex
	latency   time.Duration
	takeover  time.Duration
	fastPath  time.Duration
	elsewhere bool // the runs go to another process
	reply     func(s start) error
	signalled func(workflowID string) error
	silent    string                        // the run that signals get no answer from
	answered  func(workflowID string) error // to starts of callbacks
	refused   error                         // to those with search attributes
	described *workflowservice.DescribeWorkflowExecutionResponse
	polled    int // the pollers of every task queue
	checks    []string

	starts         []start
	signals        []string
	callbacks      []client.StartWorkflowOptions
	streams        []streamStart
	streamReply    error
	open, maxOpen  int
	byDestination  map[string]int
	maxTo          map[string]int
	starting, peak int
}

// streamStart is the start of a stream.
type streamStart struct {
	options client.StartWorkflowOptions
	input   workflows.StreamInput
}

func newEngine(t *table) *engine {
	return &engine{
		table: t, latency: 2 * time.Millisecond, takeover: time.Millisecond, fastPath: 10 * time.Millisecond,
		byDestination: map[string]int{}, maxTo: map[string]int{},
	}
}

func (e *engine) ExecuteWorkflow(ctx context.Context, options client.StartWorkflowOptions, name any,
	args ...any) (client.WorkflowRun, error) {
	switch name {
	case workflows.WorkflowCallback:
		return nil, e.startCallback(options, args[0].(workflows.CallbackInput))
	case workflows.WorkflowStream:
		e.mu.Lock()
		defer e.mu.Unlock()
		e.streams = append(e.streams, streamStart{options, args[0].(workflows.StreamInput)})
		return nil, e.streamReply
	}
	s := start{time.Now(), options, name, args[0].(workflows.DeliverInput)}
	e.mu.Lock()
	e.starts = append(e.starts, s)
	e.starting++
	e.peak = max(e.peak, e.starting)
	latency, reply := e.latency, e.reply
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		e.starting--
		e.mu.Unlock()
	}()
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-time.After(latency):
	}
	if reply != nil {
		if err := reply(s); err != nil {
			return nil, err
		}
	}
	go e.run(s)
	return nil, nil
}

func (e *engine) startCallback(options client.StartWorkflowOptions, in workflows.CallbackInput) error {
	e.mu.Lock()
	e.callbacks = append(e.callbacks, options)
	refused, answered := e.refused, e.answered
	e.mu.Unlock()
	if refused != nil && options.TypedSearchAttributes.Size() > 0 {
		return refused
	}
	if answered != nil {
		return answered(in.ID())
	}
	return nil
}

func (e *engine) DescribeWorkflowExecution(_ context.Context, workflowID,
	_ string) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.checks = append(e.checks, workflowID)
	if e.described == nil {
		return nil, serviceerror.NewNotFound("no such run")
	}
	return e.described, nil
}

func (e *engine) DescribeTaskQueue(context.Context, string,
	enums.TaskQueueType) (*workflowservice.DescribeTaskQueueResponse, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return &workflowservice.DescribeTaskQueueResponse{Pollers: make([]*taskqueuepb.PollerInfo, e.polled)}, nil
}

func (e *engine) GetWorkflowHistory(context.Context, string, string, bool,
	enums.HistoryEventFilterType) client.HistoryEventIterator {
	return noHistory{}
}

type noHistory struct{ client.HistoryEventIterator }

func (noHistory) HasNext() bool { return false }

func (e *engine) SignalWorkflow(ctx context.Context, workflowID, _, name string, _ any) error {
	if workflowID == e.silent {
		<-ctx.Done()
		return ctx.Err()
	}
	e.mu.Lock()
	if name == workflows.SignalTryNow {
		e.signals = append(e.signals, workflowID)
	}
	signalled := e.signalled
	e.mu.Unlock()
	if signalled != nil {
		return signalled(workflowID)
	}
	return nil
}

// run is the fast path of one message.
func (e *engine) run(s start) {
	e.mu.Lock()
	elsewhere, takeover, fastPath := e.elsewhere, e.takeover, e.fastPath
	to := s.options.StaticSummary
	e.open++
	e.maxOpen = max(e.maxOpen, e.open)
	e.byDestination[to]++
	e.maxTo[to] = max(e.maxTo[to], e.byDestination[to])
	e.mu.Unlock()
	h := e.table.hold(outbox.Ref{ID: s.input.MessageID, Generation: s.input.Generation})
	time.Sleep(takeover)
	if !elsewhere {
		close(h.taken)
	}
	time.Sleep(fastPath)
	e.mu.Lock()
	e.open--
	e.byDestination[to]--
	e.mu.Unlock()
	if !elsewhere {
		close(h.settled)
	}
}

// seen is what the engine has noted so far.
func (e *engine) seen() *engine {
	e.mu.Lock()
	defer e.mu.Unlock()
	return &engine{starts: slices.Clone(e.starts), signals: slices.Clone(e.signals),
		callbacks: slices.Clone(e.callbacks), open: e.open, maxOpen: e.maxOpen, maxTo: maps.Clone(e.maxTo), peak: e.peak, checks: slices.Clone(e.checks)}
}

func (e *engine) set(edit func(*engine)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	edit(e)
}

func (e *engine) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.starts)
}

// world is a scanner over a table and an engine, in a bubble of synthetic time.
type world struct {
	*testing.T
	table   *table
	engine  *engine
	scanner *scanner.Scanner
	logs    *logs
	stop    func() time.Duration // stops the scanner and says how long that took
}

// inWorld runs a test beside a running scanner.
func inWorld(t *testing.T, opts scanner.Options, prepare func(w *world), test func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t, table: newTable(), logs: &logs{}}
		w.engine = newEngine(w.table)
		opts.Logger = slog.New(w.logs)
		w.scanner = scanner.New(w.table, w.engine, opts)
		if prepare != nil {
			prepare(w)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.scanner.Run(ctx) }()
		var once sync.Once
		w.stop = func() (took time.Duration) {
			once.Do(func() {
				began := time.Now()
				cancel()
				assert.NoError(t, <-ended)
				took = time.Since(began)
			})
			return took
		}
		test(w)
		w.stop()
		time.Sleep(time.Minute) // runs that the scanner no longer watches
	})
}

// startsOf counts the starts for a destination.
func (w *world) startsOf(destination string) int {
	n := 0
	for _, s := range w.engine.seen().starts {
		if strings.HasSuffix(s.options.StaticSummary, " to `"+destination+"`") {
			n++
		}
	}
	return n
}

// pass lets synthetic time pass.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// logs counts what is logged.
type logs struct {
	mu       sync.Mutex
	messages []string
	fields   []map[string]string // of each message
}

func (l *logs) Enabled(context.Context, slog.Level) bool { return true }
func (l *logs) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *logs) WithGroup(string) slog.Handler            { return l }
func (l *logs) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.messages = append(l.messages, r.Message)
	fields := map[string]string{}
	r.Attrs(func(a slog.Attr) bool { fields[a.Key] = a.Value.String(); return true })
	l.fields = append(l.fields, fields)
	return nil
}

// fieldsOf are those of the lines with a message.
func (l *logs) fieldsOf(message string) (all []map[string]string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, m := range l.messages {
		if m == message {
			all = append(all, l.fields[i])
		}
	}
	return all
}

func (l *logs) total() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.messages)
}

func (l *logs) count(message string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, m := range l.messages {
		if m == message {
			n++
		}
	}
	return n
}

func (t *table) ReleaseDeferred(context.Context) (left bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.deferredLooks = append(t.deferredLooks, time.Now())
	if t.deferred > 0 {
		t.deferred--
	}
	return t.deferred > 0, nil
}

func (t *table) OnRelease(released func()) { t.onRelease = released }

// WantStreams and FreeLostPages: the fake table has no streams of its own.
func (t *table) WantStreams(_ context.Context, destinations []string, above int) ([]string, error) {
	time.Sleep(t.streamLookTakes)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.streamLooks = append(t.streamLooks, streamLook{destinations, above})
	return t.streams, t.err
}

func (t *table) AnnounceStream(_ context.Context, destination string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.streamed = append(t.streamed, destination)
	return t.err
}

func (t *table) FreeLostPages(context.Context) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lostPageLooks++
	freed := t.lost
	t.lost = 0
	return freed, nil
}

// streamLook is a WantStreams as it was asked for.
type streamLook struct {
	destinations []string
	above        int
}
