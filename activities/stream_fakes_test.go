package activities

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/testsuite"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/publish"
)

// pages is the table as streams see it, in memory: the messages of one destination.
type pages struct {
	mu       sync.Mutex
	messages []*paged
	byID     map[uuid.UUID]*paged
	claims   []outbox.PageRequest
	notes    []outbox.StreamState
	ended    int // pages
	frees    [][]uuid.UUID
	lost     int       // messages of lost pages, for the next look
	at       time.Time // of the last page

	// before runs ahead of each statement, outside the lock; its error is the statement's.
	before func(statement string) error
	// lose has the answer of the next claim lost. Its page stands.
	lose bool
	// late is how long ago each claim was sent when its answer comes.
	late time.Duration
	// crowded has each handover say that too many messages have runs.
	crowded bool
	// mostEnds are how many ends one statement can write; 0: any.
	mostEnds int
	// heldBack has each page say that a breaker is open.
	heldBack bool
}

// paged is a message, and what became of it.
type paged struct {
	outbox.PageMessage
	at     time.Time // of its page
	end    outbox.Ending
	ends   int
	ended  time.Time
	handed int // publish attempts at the handover
	left   int // how often it was given back
	// attempts and lastError are what the row was told of them then.
	attempts  int
	lastError string
	holders   []uuid.UUID
	// lockedUntil is when another session lets go of the row.
	lockedUntil time.Time
}

var _ StreamStore = (*pages)(nil)

// due adds n messages that are due now.
func (p *pages) due(n int, change ...func(i int, m *paged)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range n {
		m := &paged{PageMessage: outbox.PageMessage{Record: outbox.Record{
			Message: outflow.Message{ID: uuid.New(), Destination: "sqs://orders", Payload: []byte("{}"), DueAt: time.Now()},
			State:   outflow.Pending, Generation: 1,
		}}}
		for _, c := range change {
			c(i, m)
		}
		p.messages = append(p.messages, m)
		p.byID[m.ID] = m
	}
}

func (p *pages) begin(ctx context.Context, statement string) error {
	p.mu.Lock()
	before := p.before
	p.mu.Unlock()
	if before == nil {
		return nil
	}
	done := make(chan error, 1)
	go func() { done <- before(statement) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *pages) ClaimPage(ctx context.Context, req outbox.PageRequest) (outbox.Page, error) {
	if err := p.begin(ctx, "claim"); err != nil {
		return outbox.Page{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.claims = append(p.claims, req)
	p.at = p.at.Add(time.Microsecond)
	page := outbox.Page{PageRef: outbox.PageRef{Destination: req.Destination, At: p.at}, Next: req.From, HeldBack: p.heldBack,
		ClaimedAt: time.Now().Add(-p.late)}
	bytes := 0
	for _, m := range p.messages {
		if m.ends > 0 || !m.at.IsZero() || m.handed > 0 || m.DueAt.Before(req.From) {
			continue
		}
		suspect := m.Claims > 0
		if len(page.Messages) == req.MaxMessages || bytes >= req.MaxBytes ||
			len(page.Messages) > 0 && suspect != page.Suspect {
			break
		}
		page.Suspect = suspect
		m.at, m.holders = p.at, append(m.holders, req.Holder)
		bytes += m.Bytes()
		page.Messages = append(page.Messages, m.PageMessage)
		page.Next = m.DueAt
	}
	if p.lose {
		p.lose = false
		return outbox.Page{}, errors.New("unexpected EOF")
	}
	return page, nil
}

// change changes messages of a page as a statement does. It returns those that are locked.
func (p *pages) change(
	at time.Time, left []outbox.Unfinished, change func(u outbox.Unfinished, m *paged),
) (locked []uuid.UUID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, u := range left {
		switch m := p.byID[u.ID]; {
		case m.ends > 0 || !m.at.Equal(at):
		case time.Now().Before(m.lockedUntil):
			locked = append(locked, u.ID)
		default:
			m.at = time.Time{}
			change(u, m)
		}
	}
	return locked
}

func (p *pages) LeavePage(
	ctx context.Context, page outbox.PageRef, left []outbox.Unfinished,
) (locked []uuid.UUID, err error) {
	if err := p.begin(ctx, "leave"); err != nil {
		return nil, err
	}
	return p.change(page.At, left, func(u outbox.Unfinished, m *paged) {
		m.left++
		m.attempts, m.lastError = m.attempts+u.Attempts, u.LastError
	}), nil
}

func (p *pages) HandOver(
	ctx context.Context, page outbox.PageRef, failed []outbox.Unfinished,
) (done outbox.HandedOver, err error) {
	if err := p.begin(ctx, "hand over"); err != nil {
		return done, err
	}
	done.Locked = p.change(page.At, failed, func(u outbox.Unfinished, m *paged) { m.handed, m.lastError = u.Attempts, u.LastError })
	p.mu.Lock()
	defer p.mu.Unlock()
	done.Messages, done.Enough = len(failed)-len(done.Locked), !p.crowded
	if p.crowded {
		done.Messages /= 2
	}
	return done, nil
}

func (p *pages) EndPage(ctx context.Context, _ outbox.PageRef) error {
	if err := p.begin(ctx, "end page"); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended++
	return nil
}

func (p *pages) FreePages(ctx context.Context, _ string, holders []uuid.UUID) (freed, left int, err error) {
	if err := p.begin(ctx, "free"); err != nil {
		return 0, 0, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frees = append(p.frees, holders)
	freed, p.lost = p.lost, 0
	return freed, 0, nil
}

func (p *pages) FinishAll(ctx context.Context, endings []outbox.Ending) []outbox.Finished {
	finished := make([]outbox.Finished, len(endings))
	if err := p.begin(ctx, "finish"); err != nil {
		for i := range finished {
			finished[i].Err = err
		}
		return finished
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mostEnds > 0 && len(endings) > p.mostEnds {
		for i := range finished {
			finished[i].Err = errors.New("canceling statement due to statement timeout")
		}
		return finished
	}
	for i, e := range endings {
		m := p.byID[e.ID]
		if time.Now().Before(m.lockedUntil) {
			finished[i].Err = outbox.ErrLocked
			continue
		}
		m.ends++
		m.end, m.ended = e, time.Now()
		finished[i] = outbox.Finished{Generation: e.Generation, State: e.State}
	}
	return finished
}

func (p *pages) NoteStream(ctx context.Context, n outbox.StreamState, _ bool) error {
	if err := p.begin(ctx, "note"); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.notes = append(p.notes, n)
	return nil
}

// count says how many messages are as a condition wants them.
func (p *pages) count(is func(m *paged) bool) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.messages {
		if is(m) {
			n++
		}
	}
	return n
}

func delivered(m *paged) bool { return m.ends > 0 && m.end.State == outflow.Delivered }
func waits(m *paged) bool     { return m.ends == 0 && m.at.IsZero() && m.handed == 0 }
func inPage(m *paged) bool    { return m.ends == 0 && !m.at.IsZero() }

// lastNote is how the stream was last noted.
func (p *pages) lastNote() outbox.StreamState {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.notes[len(p.notes)-1]
}

// batches is a broker. It acknowledges what answer, where set, has no error for.
type batches struct {
	mu       sync.Mutex
	answer   func(m outflow.Message, tries int) error
	takes    time.Duration                                  // of each request
	slow     func(messages []outflow.Message) time.Duration // if set, instead of takes
	sent     map[uuid.UUID]int
	requests [][]outflow.Message
	// now and most are requests under way.
	now, most int
	// onSend is called with each request, under mu.
	onSend func(messages []outflow.Message)
}

func (b *batches) PublishBatch(ctx context.Context, _ string, messages []outflow.Message) []publish.Result {
	b.mu.Lock()
	b.requests = append(b.requests, slices.Clone(messages))
	b.now++
	b.most = max(b.most, b.now)
	takes, answer := b.takes, b.answer
	if b.slow != nil {
		takes = b.slow(messages)
	}
	if b.onSend != nil {
		b.onSend(messages)
	}
	b.mu.Unlock()
	time.Sleep(takes)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now--
	results := make([]publish.Result, len(messages))
	for i, m := range messages {
		b.sent[m.ID]++
		results[i].BrokerMessageID = "broker-" + m.ID.String()
		if answer != nil {
			results[i].Err = answer(m, b.sent[m.ID])
		}
	}
	return results
}

func (b *batches) set(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
}

// twice are the messages that were sent more than once.
func (b *batches) twice() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, times := range b.sent {
		if times > 1 {
			n++
		}
	}
	return n
}

// stage has streams run in the test environment.
type stage struct {
	t      *testing.T
	fake   *fake
	table  *pages
	broker *batches
	all    *Streams
	env    *testsuite.TestActivityEnvironment
	stop   chan struct{}
	mu     sync.Mutex
	cancel context.CancelCauseFunc
	// stream is the one that runs, where it is watched or has a turn of its own.
	stream  *streaming
	watched bool
	turn    time.Duration
	before  outbox.Progress // of earlier activities
}

func newStage(t *testing.T, options ...Option) *stage {
	t.Helper()
	f, _, _ := newFake()
	s := &stage{t: t, fake: f, table: &pages{byID: map[uuid.UUID]*paged{}, at: time.Now().Add(24 * time.Hour)}, stop: make(chan struct{}),
		broker: &batches{sent: map[uuid.UUID]int{}, takes: 5 * time.Millisecond}}
	s.all = NewStreams(New(f, f, options...), s.table, s.broker)
	s.newAttempt()
	return s
}

// newAttempt has the next execute be that of another attempt.
func (s *stage) newAttempt() {
	var suite testsuite.WorkflowTestSuite
	s.env = suite.NewTestActivityEnvironment()
	s.env.SetTestTimeout(time.Hour)
	s.env.SetWorkerStopChannel(s.stop)
	s.env.RegisterActivityWithOptions(func(ctx context.Context, in StreamInput) (StreamResult, error) {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		s.mu.Lock()
		s.cancel = cancel
		s.mu.Unlock()
		if s.turn == 0 && !s.watched {
			return s.all.Stream(ctx, in)
		}
		s.all.active.Add(1)
		defer s.all.active.Add(-1)
		r := newStreaming(s.all, in, activity.GetInfo(ctx))
		if s.turn > 0 {
			r.until = time.Now().Add(s.turn)
		}
		var last streamNote
		if activity.HasHeartbeatDetails(ctx) && activity.GetHeartbeatDetails(ctx, &last) == nil {
			r.goOn(last)
		}
		s.mu.Lock()
		s.stream = r
		s.mu.Unlock()
		ended, err := r.run(ctx)
		return StreamResult{Progress: r.progress, Ended: ended}, err
	}, activity.RegisterOptions{Name: "Stream"})
}

// execute runs a stream to its end.
func (s *stage) execute() (StreamResult, error) {
	s.t.Helper()
	value, err := s.env.ExecuteActivity("Stream", StreamInput{Destination: "sqs://orders", First: true, Before: s.before})
	if err != nil {
		return StreamResult{}, err
	}
	var result StreamResult
	require.NoError(s.t, value.Get(&result))
	return result, nil
}

// after does something while the stream runs.
func (s *stage) after(d time.Duration, do func()) { time.AfterFunc(d, do) }

// cancelWith ends the activity's context as the SDK does.
func (s *stage) cancelWith(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cancel(cause)
}

// requireAll requires that each message is as wanted.
func (s *stage) requireAll(is func(*paged) bool, n int) {
	s.t.Helper()
	require.Equal(s.t, n, s.table.count(is), "%s", s.table)
}

// String says what became of the messages.
func (p *pages) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	counts := map[string]int{}
	for _, m := range p.messages {
		switch {
		case m.ends > 0:
			counts[string(m.end.State)]++
		case m.handed > 0:
			counts["handed over"]++
		case !m.at.IsZero():
			counts["in a page"]++
		default:
			counts["waits"]++
		}
	}
	return strings.TrimPrefix(fmt.Sprint(counts), "map")
}

var throttled = &outflow.Failure{Class: outflow.ClassUnavailable, Answered: true, Err: errors.New("throttled")}
