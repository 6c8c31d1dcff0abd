package activities

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"go.temporal.io/sdk/activity"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/internal/tracing"
	"github.com/outflowhq/outflow/outbox"
)

// The bounds of streams. Those of a process are shared by its streams.
const (
	// pageMessages and pageBytes bound one page. A statement for 2,000 rows takes some 20 ms.
	pageMessages = 2000
	pageBytes    = 16 << 20
	// pagesInHand has one page sent while the one before is marked and the next one is claimed.
	pagesInHand = 3
	// streamBytes bounds the payloads in hand in a process, streamRequests its requests under way: a
	// broker that takes 20 ms for a request of ten gets 32,000 messages a second by 64 of them.
	streamBytes    = 64 << 20
	streamRequests = 64
	// requestMessages is what the brokers of AWS take in one request.
	requestMessages = 10
	// maxUnmarked bounds the acknowledgements that a heartbeat carries, some 110 bytes each. Temporal
	// takes 2 MB. https://docs.temporal.io/cloud/limits
	maxUnmarked = 3 * pageMessages
	// markMessages bounds one statement that writes ends.
	markMessages = 2000
	// leastMessages is what a page, and a statement that writes ends, has at least of these: both are
	// halved where they fail, such as by a statement_timeout, and grow again by a sixteenth.
	leastMessages = 20
	// maxFailures of claims in a row, or of statements that write ends, have the starters' hint end.
	maxFailures = 3
	// maxPages bounds the pages of which only rows are left that other sessions have locked, with those
	// in hand.
	maxPages = 10 * pagesInHand
	// maxStreamTries is how often a message is sent before it is handed over. The wait between two tries
	// begins with streamBackoff and doubles.
	maxStreamTries = 5
	streamBackoff  = 100 * time.Millisecond
	// maxFailedRequests of first tries, without a success between them, end the stream: its destination is
	// down. The breaker learns of those after the first quietFailures: a few in a row may fail where a
	// destination throttles some.
	maxFailedRequests = 20
	quietFailures     = 5
	// warnInterval lies between two lines of the log about failed requests.
	warnInterval = 10 * time.Second
	// minSlowdown lies between two halvings of the requests at once.
	minSlowdown = 200 * time.Millisecond

	// streamIdle is how long nothing is due before a stream ends. idlePause lies between its looks then.
	// gatherPause follows a page that was not full, for messages to gather.
	streamIdle  = 30 * time.Second
	idlePause   = 100 * time.Millisecond
	gatherPause = 20 * time.Millisecond
	// commitLag is how far before the end of a page that was not full the next one begins: a message is
	// due when it is enqueued, and seen when that is committed.
	commitLag = 500 * time.Millisecond
	// fromStart is how often a stream looks from the beginning, for messages that were committed later.
	// Such a look takes one part in fromStartShare of the time.
	fromStart      = 5 * time.Second
	fromStartShare = 20
	// noteInterval lies between two notes in the table, freeInterval between two looks at pages that
	// earlier attempts have left behind.
	noteInterval = 2 * time.Second
	freeInterval = 5 * time.Second
	// refusedAgain is when a worker that can't send there may be asked again, leaveTries how often
	// messages are given back.
	refusedAgain = 5 * time.Second
	leaveTries   = 3
	// statementLimit bounds each statement of a stream, markRetry the wait after one that failed.
	statementLimit = 15 * time.Second
	markRetry      = 500 * time.Millisecond
	// stopHolding is how long a stopping worker waits for ends that can't be written, after the last
	// answer. The next attempt has the acknowledgements from the last heartbeat. With stopNote, which
	// bounds the last note, it is less than timing.StopCalls.
	stopHolding = 3 * time.Second
	stopNote    = time.Second
)

// streaming is one activity of a stream. One goroutine owns its fields; what takes time runs beside it,
// and reports to events.
type streaming struct {
	*Streams
	in     StreamInput
	first  bool
	trace  tracing.Attempt
	events chan func()
	sends  chan *request // to the senders; it has room for all requests at once
	idling int           // senders
	closed chan struct{} // no event is taken any more
	note   atomic.Pointer[streamNote]

	progress outbox.Progress
	rate     rate

	pages    map[uuid.UUID]*openPage // in hand, by holder; nil while it is being claimed
	bytes    int                     // of messages in hand that have no answer yet
	queue    []*request
	requests int       // under way
	sending  *openPage // the suspect whose requests have begun
	limit    float64   // of requests under way
	slowed   time.Time
	failures int // requests without a success since the last one
	warned   time.Time

	ends         []pageEnd // to be written
	writing      []pageEnd // by a statement under way
	writeBegan   time.Time
	markAgain    time.Time // zero where the last statement has not failed
	markFailures int       // in a row
	locked       []pageEnd // of rows that another session has locked
	lockedAgain  time.Time
	kept         time.Time // when the note was last brought up to date
	handing      int       // statements under way that give back, or end a page

	over        []pageOver // to be handed over
	handingOver bool
	overAgain   time.Time // after a statement that failed, or left out locked rows

	pageSize, markSize int // of messages, at present
	claimFailures      int // in a row

	claiming  bool
	keyed     bool      // the last page had ordering keys: each end may release a message
	from      time.Time // where the next page begins
	nextClaim time.Time
	nextStart time.Time // when a page next looks from the beginning
	lastDue   time.Time

	noting, freeing    bool
	nextNote, nextFree time.Time

	ended  outbox.StreamEnd // why it stops; empty while it goes on
	endsAt time.Time        // when it has begun to stop
	until  time.Time        // when its turn is over
	giveUp time.Time        // when a stopping worker waits no longer
}

// openPage is a page in hand.
type openPage struct {
	outbox.Page
	holder uuid.UUID
	left   int // messages that have not left it
	locked int // of these, with an end that waits for a locked row
	passed int // of these, to be given back or handed over when their row is locked no more
	// sends ends when no request of the page may begin any more.
	sends context.Context
	close func()
}

// onlyLocked says that nothing is left of the page but rows that other sessions have locked.
func (p *openPage) onlyLocked() bool { return p.left <= p.locked+p.passed }

// request is up to requestMessages messages of a page that are sent together.
type request struct {
	page      *openPage
	messages  []*outbox.PageMessage
	tries     int
	failure   error // of the last try
	notBefore time.Time
}

// pageEnd is an end to be written. page and message are nil for an acknowledgement of an earlier attempt.
type pageEnd struct {
	page    *openPage
	message *outbox.PageMessage // without its payload
	outbox.Ending
}

// pageOver is a message to be handed over.
type pageOver struct {
	page *openPage
	outbox.Unfinished
	locked bool // its row was, by another session
}

func newStreaming(s *Streams, in StreamInput, info activity.Info) *streaming {
	now := time.Now()
	r := &streaming{
		Streams: s, in: in, pages: map[uuid.UUID]*openPage{}, first: in.First && info.Attempt == 1,
		trace: tracing.Attempt{
			WorkflowID: info.WorkflowExecution.ID, RunID: info.WorkflowExecution.RunID,
			Number: info.Attempt, Path: "stream",
		},
		events: make(chan func(), streamRequests), sends: make(chan *request, streamRequests),
		closed: make(chan struct{}), limit: streamRequests,
		lastDue: now, until: now.Add(timing.StreamTurn), pageSize: pageMessages, markSize: markMessages,
	}
	r.note.Store(&streamNote{})
	return r
}

// goOn begins with what the attempt before has left: its counts, and its acknowledgements.
func (r *streaming) goOn(last streamNote) {
	r.progress = last.Progress
	for _, u := range last.Unmarked {
		r.ends = append(r.ends, pageEnd{Ending: outbox.Ending{
			Ref: outbox.Ref{ID: u.ID, Generation: u.Generation}, State: outflow.Delivered,
			BrokerMessageID: u.BrokerID, Attempts: 1, Streamed: true,
		}})
	}
	if len(r.ends) > 0 {
		r.markAgain = time.Now() // the heartbeats keep them
	}
	r.note.Store(&last)
}

// run streams until there is a reason to end, and nothing is in hand any more.
func (r *streaming) run(ctx context.Context) (outbox.StreamEnd, error) {
	stopHeartbeats := sync.OnceFunc(streamHeartbeats(ctx, func() streamNote { return *r.note.Load() }))
	defer stopHeartbeats()
	defer close(r.closed)
	work, stopSends := context.WithCancel(context.WithoutCancel(ctx))
	defer stopSends()
	cancelled, stopping := ctx.Done(), activity.GetWorkerStopChannel(ctx)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		r.advance(ctx, work)
		if r.ended != "" {
			stopSends()
			if r.idle() || r.givesUp() {
				break
			}
		}
		select {
		case event := <-r.events:
			event()
			r.takeEvents()
		case <-tick.C:
		case <-cancelled:
			cancelled = nil
			r.endFromOutside(stopReason(ctx))
		case <-stopping:
			stopping = nil
			r.end(outbox.StreamStopped)
			r.giveUp = time.Now().Add(stopHolding)
		}
	}
	r.keepNote()
	stopHeartbeats()
	r.noteEnd(ctx)
	if held := r.held(); held > 0 {
		return r.ended, fmt.Errorf("%d acknowledged messages are still to be marked", held)
	}
	return endedBy(ctx, r.ended)
}

// takeEvents takes what has happened meanwhile.
func (r *streaming) takeEvents() {
	for {
		select {
		case event := <-r.events:
			event()
		default:
			return
		}
	}
}

// idle reports whether nothing is in hand or under way.
func (r *streaming) idle() bool {
	return r.requests == 0 && len(r.queue) == 0 && r.held() == 0 && !r.claiming && len(r.over) == 0 &&
		!r.handingOver && r.handing == 0 && !r.noting && !r.freeing
}

// held counts the ends that are not written.
func (r *streaming) held() int { return len(r.ends) + len(r.writing) + len(r.locked) }

// full reports whether no page may be claimed now. A page counts as long as more than locked rows are
// left of it.
func (r *streaming) full() bool {
	n := 0
	for _, p := range r.pages {
		if p == nil || !p.onlyLocked() {
			n++
		}
	}
	return n >= pagesInHand || len(r.pages) >= maxPages || len(r.ends) > pagesInHand*pageMessages
}

// stuck reports whether the stream can't go on for now: then starters are to deliver without it.
func (r *streaming) stuck() bool {
	return r.claimFailures >= maxFailures || r.markFailures >= maxFailures || len(r.pages) >= maxPages
}

// givesUp reports whether a stopping worker waits no longer. It waits for each answer of the broker.
func (r *streaming) givesUp() bool {
	if r.requests > 0 && !r.giveUp.IsZero() {
		r.giveUp = time.Now().Add(stopHolding)
	}
	return !r.giveUp.IsZero() && time.Now().After(r.giveUp)
}

// end begins the end of the stream.
func (r *streaming) end(why outbox.StreamEnd) {
	if r.ended == "" {
		r.ended, r.endsAt = why, time.Now()
	}
}

// endFromOutside begins the end that somebody has asked for, or takes the place of one that has begun:
// the run and the table are to know of it.
func (r *streaming) endFromOutside(why outbox.StreamEnd) {
	r.end(why)
	if why == outbox.StreamCancelled || why == outbox.StreamPaused {
		r.ended = why
	}
}

// advance begins whatever may begin now.
func (r *streaming) advance(ctx, work context.Context) {
	now := time.Now()
	switch {
	case now.After(r.until):
		r.end(outbox.StreamTurn)
	case len(r.pages) == 0 && now.Sub(r.lastDue) >= streamIdle && r.idle():
		r.end(outbox.StreamDrained)
	}
	r.sendQueued(now)
	r.mark(ctx, now)
	r.handOverNext(ctx, now)
	r.claim(ctx, work, now)
	r.free(ctx, now)
	r.noteProgress(ctx, now)
	if r.tells(now) && now.Sub(r.kept) >= timing.StreamHeartbeatInterval {
		r.keepNote()
	}
}

// do runs a step beside the stream; then is called with the stream's other events after it.
func (r *streaming) do(ctx context.Context, step func(ctx context.Context), then func()) {
	go func() {
		inTime, cancel := context.WithTimeout(context.WithoutCancel(ctx), statementLimit)
		defer cancel()
		step(inTime)
		r.report(then)
	}()
}

// report has the stream take an event.
func (r *streaming) report(event func()) {
	select {
	case r.events <- event:
	case <-r.closed:
	}
}

// drop lets go of a message's payload: its request has ended.
func (r *streaming) drop(m *outbox.PageMessage) {
	r.bytes -= m.Bytes()
	m.Payload, m.Headers = nil, nil
}

// endMessage has the end of a message of the page written.
func (r *streaming) endMessage(p *openPage, m *outbox.PageMessage, e outbox.Ending) {
	e.Ref, e.Streamed = m.Ref(), true
	r.ends = append(r.ends, pageEnd{page: p, message: m, Ending: e})
}

// left notes that so many messages have left a page. The last one ends it.
func (r *streaming) left(p *openPage, n int) {
	if p == nil {
		return
	}
	if p.left -= n; p.left > 0 {
		return
	}
	delete(r.pages, p.holder)
	p.close()
	if r.sending == p {
		r.sending = nil
	}
	r.handing++
	var err error
	r.do(context.Background(), func(ctx context.Context) { err = r.store.EndPage(ctx, p.PageRef) }, func() {
		r.handing--
		if err != nil { // it is freed later, with no message in it
			r.logTo().Warn("ending a page", "error", err)
		}
	})
}
