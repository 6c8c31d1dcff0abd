package activities

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"go.temporal.io/sdk/activity"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/internal/tracing"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/publish"
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
	// maxClaimFailures in a row have the starters' hint end.
	maxClaimFailures = 3
	// maxStreamTries is how often a message is sent before it is handed over. The wait between two tries
	// begins with streamBackoff and doubles.
	maxStreamTries = 5
	streamBackoff  = 100 * time.Millisecond
	// maxFailedRequests without a success between them end the stream: its destination is down. The
	// breaker learns of those after the first quietFailures. The last messages of a destination that
	// throttles some go out alone, and a few of them in a row may fail.
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

	ends      []pageEnd // to be written
	writing   []pageEnd // by a statement under way
	markAgain time.Time // zero where the last statement has written all
	kept      time.Time // when the note was last brought up to date
	handing   int       // statements under way that give back, or end a page

	over        []pageOver // to be handed over
	handingOver bool

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
	until  time.Time        // when its turn is over
	giveUp time.Time        // when a stopping worker waits no longer
}

// openPage is a page in hand.
type openPage struct {
	outbox.Page
	holder uuid.UUID
	left   int // messages that have not left it
	// sends ends when no request of the page may begin any more.
	sends context.Context
	close func()
}

// request is up to requestMessages messages of a page that are sent together.
type request struct {
	page      *openPage
	messages  []*outbox.PageMessage
	tries     int
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
	outbox.HandedOver
}

func newStreaming(s *Streams, in StreamInput, info activity.Info) *streaming {
	now := time.Now()
	r := &streaming{
		Streams: s, in: in, pages: map[uuid.UUID]*openPage{}, first: in.First && info.Attempt == 1,
		trace: tracing.Attempt{
			WorkflowID: info.WorkflowExecution.ID, RunID: info.WorkflowExecution.RunID,
			Number: info.Attempt, Path: "stream",
		},
		events: make(chan func(), streamRequests), sends: make(chan *request, streamRequests), closed: make(chan struct{}), limit: streamRequests,
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
	stopHeartbeats := streamHeartbeats(ctx, func() streamNote { return *r.note.Load() })
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
			r.end(stopReason(ctx))
		case <-stopping:
			stopping = nil
			r.end(outbox.StreamStopped)
			r.giveUp = time.Now().Add(stopHolding)
		}
	}
	r.keepNote()
	stopHeartbeats()
	r.noteEnd(ctx)
	if held := len(r.writing) + len(r.ends); held > 0 {
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
	return r.requests == 0 && len(r.queue) == 0 && len(r.ends) == 0 &&
		len(r.writing) == 0 && !r.claiming && len(r.over) == 0 && !r.handingOver && r.handing == 0 && !r.noting && !r.freeing
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
	r.handOverNext(ctx)
	r.claim(ctx, work, now)
	r.free(ctx, now)
	r.noteProgress(ctx, now)
	if !r.markAgain.IsZero() && now.Sub(r.kept) >= timing.StreamHeartbeatInterval {
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

// share is what this stream has of a bound of its process.
func (r *streaming) share(bound int) int { return max(bound/int(max(r.active.Load(), 1)), 1) }

// claim claims the next page, where there is room for it.
func (r *streaming) claim(ctx, work context.Context, now time.Time) {
	room := min(pageBytes, r.share(streamBytes)-r.bytes)
	if r.ended != "" || r.claiming || len(r.pages) >= pagesInHand || r.hasSuspect() || room < 1 || now.Before(r.nextClaim) ||
		len(r.ends) > pagesInHand*pageMessages {
		return
	}
	req := outbox.PageRequest{
		Destination: r.in.Destination, Holder: uuid.New(), From: r.from, MaxMessages: r.pageSize, MaxBytes: room,
	}
	whole := !now.Before(r.nextStart)
	if whole {
		req.From = time.Time{}
	}
	r.claiming = true
	r.pages[req.Holder] = nil
	var page outbox.Page
	var err error
	r.do(ctx, func(ctx context.Context) { page, err = r.store.ClaimPage(ctx, req) }, func() {
		r.claiming = false
		delete(r.pages, req.Holder)
		took := time.Since(now)
		if whole {
			r.nextStart = time.Now().Add(max(fromStart, fromStartShare*took))
		}
		r.metrics.Claimed("stream", len(page.Messages), bytesOf(page.Messages), took, err)
		r.pageSize = resized(r.pageSize, pageMessages, err != nil)
		if err != nil { // where it was claimed all the same, it is freed like that of a lost holder
			r.logger(ctx).Error("claiming a page", "destination", outflow.DisplayDestination(r.in.Destination), "error", err)
			r.nextClaim = time.Now().Add(markRetry)
			r.lastDue = time.Now() // there may be messages
			r.claimFailures++
			return
		}
		r.claimFailures = 0
		if page.HeldBack { // starters ask for its recovery
			r.end(outbox.StreamFailing)
		}
		r.took(work, page, req.Holder)
	})
}

// resized is how many messages the next statement has at most, after one of size.
func resized(size, most int, failed bool) int {
	if failed {
		return max(size/2, leastMessages)
	}
	return min(size+size/16+1, most)
}

// hasSuspect reports whether a page in hand is a suspect.
func (r *streaming) hasSuspect() bool {
	for _, p := range r.pages {
		if p != nil && p.Suspect {
			return true
		}
	}
	return false
}

// took takes a claimed page in hand.
func (r *streaming) took(work context.Context, page outbox.Page, holder uuid.UUID) {
	if len(page.Messages) == 0 {
		r.nextClaim = time.Now().Add(idlePause)
		return
	}
	r.from, r.lastDue = page.Next, time.Now()
	if len(page.Messages) < pageMessages {
		r.from = r.from.Add(-commitLag)
	}
	p := &openPage{Page: page, holder: holder, left: len(page.Messages)}
	p.sends, p.close = endAt(work, page.ClaimedAt.Add(timing.StreamSends))
	r.pages[holder] = p
	var due []*outbox.PageMessage
	r.keyed = false
	for i := range page.Messages {
		m := &page.Messages[i]
		r.keyed = r.keyed || m.OrderingKey != ""
		if m.CancelRequested {
			r.endMessage(p, m, outbox.Ending{State: outflow.Cancelled, LastError: ReasonCancelled})
			continue
		}
		due = append(due, m)
		r.bytes += m.Bytes()
	}
	p.Messages = nil // the requests have them
	for chunk := range slices.Chunk(due, requestMessages) {
		r.queue = append(r.queue, &request{page: p, messages: chunk})
	}
	if len(page.Messages) < pageMessages/10 && !page.Suspect && !r.keyed {
		r.nextClaim = time.Now().Add(gatherPause)
	}
}

// endAt returns a context that ends then. It has no deadline: publishers would give their calls less
// time for it.
func endAt(ctx context.Context, at time.Time) (ends context.Context, stop func()) {
	ends, cancel := context.WithCancel(ctx)
	timer := time.AfterFunc(time.Until(at), cancel)
	return ends, func() { timer.Stop(); cancel() }
}

func bytesOf(messages []outbox.PageMessage) (sum int) {
	for _, m := range messages {
		sum += m.Bytes()
	}
	return sum
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

// sendQueued begins requests, as far as the bounds allow. A stream that ends gives its messages back.
func (r *streaming) sendQueued(now time.Time) {
	if r.ended != "" {
		for _, q := range r.queue {
			r.leave(q.page, q.messages)
		}
		r.queue = nil
		return
	}
	limit := min(int(r.limit), r.share(streamRequests))
	kept := r.queue[:0]
	for i, q := range r.queue {
		if r.requests >= limit {
			kept = append(kept, r.queue[i:]...)
			break
		}
		if now.Before(q.notBefore) || !r.mayBeside(q.page) {
			kept = append(kept, q)
			continue
		}
		r.send(q)
	}
	clear(r.queue[len(kept):])
	r.queue = kept
}

// mayBeside reports whether a request of the page may begin now. Suspects are sent with nothing else in
// hand, and no end unwritten: the process may be lost to them.
func (r *streaming) mayBeside(p *openPage) bool {
	if r.sending != nil {
		return r.sending == p
	}
	return !p.Suspect || r.requests == 0 && len(r.pages) == 1 && len(r.ends)+len(r.writing) == 0
}

// send makes one request.
func (r *streaming) send(q *request) {
	r.requests++
	if q.page.Suspect {
		r.sending = q.page
	}
	if r.idling == 0 {
		go r.sender()
	} else {
		r.idling--
	}
	r.sends <- q
}

// sender makes requests, one after the other, as long as the stream lives. Its stack grows once to what a
// client of AWS needs, and not for each request.
func (r *streaming) sender() {
	for {
		select {
		case q := <-r.sends:
			sent := r.publish(q)
			r.report(func() {
				r.requests--
				r.idling++
				r.settle(q, sent)
			})
		case <-r.closed:
			return
		}
	}
}

// sent is what came of a request.
type sent struct {
	// expired are messages whose expiry has passed, unsent those that were too late to be sent.
	expired, unsent []*outbox.PageMessage
	tried           []*outbox.PageMessage
	results         []publish.Result // of tried, classified
	took            time.Duration
}

// publish sends the messages of a request that may be sent. It runs beside the stream.
func (r *streaming) publish(q *request) (s sent) {
	ctx, elapsed := q.page.sends, time.Since(q.page.ClaimedAt)
	if elapsed >= timing.StreamSends || ctx.Err() != nil {
		return sent{unsent: q.messages}
	}
	messages := make([]outflow.Message, 0, len(q.messages))
	for _, m := range q.messages {
		if m.Expires && m.ExpiresIn <= elapsed {
			s.expired = append(s.expired, m)
			continue
		}
		s.tried = append(s.tried, m)
		messages = append(messages, m.Message)
	}
	if len(messages) == 0 {
		return s
	}
	spans := make([]tracing.Span, len(messages))
	for i, m := range s.tried {
		_, spans[i] = r.tracer.Publish(ctx, m.Record, r.trace)
	}
	began := time.Now()
	s.results = r.publisher.PublishBatch(ctx, r.in.Destination, messages)
	s.took = time.Since(began)
	inTime, cancel := context.WithTimeout(context.WithoutCancel(ctx), statementLimit)
	defer cancel()
	counts := map[string]int{}
	for i := range s.results {
		result := &s.results[i]
		if result.Err != nil {
			result.Err = r.classify(inTime, r.in.Destination, result.Err)
		}
		spans[i].Published(result.BrokerMessageID)
		spans[i].End(result.Err, failureType(result.Err))
		counts[publishResult(result.Err)]++
	}
	for result, n := range counts {
		r.metrics.Published(r.in.Destination, r.trace.Path, result, n, s.took)
	}
	return s
}

// failureType is tracing's, and empty without an error.
func failureType(err error) string {
	if err == nil {
		return ""
	}
	return tracing.FailureType(err)
}
