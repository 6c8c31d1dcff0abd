package activities

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"go.temporal.io/sdk/log"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
)

// settle takes the answers of a request.
func (r *streaming) settle(q *request, s sent) {
	for _, m := range s.expired {
		r.drop(m)
		r.endMessage(q.page, m, outbox.Ending{State: outflow.Expired, LastError: ReasonExpired})
	}
	if len(s.unsent) > 0 {
		r.leave(q.page, s.unsent)
	}
	var again, missing, unattempted []*outbox.PageMessage
	var last error
	acknowledged := 0
	for i, result := range s.results {
		m, err := s.tried[i], result.Err
		switch {
		case err == nil:
			acknowledged++
			r.drop(m)
			r.endMessage(q.page, m, outbox.Ending{
				State: outflow.Delivered, BrokerMessageID: result.BrokerMessageID, Attempts: q.tries + 1,
			})
		case errors.Is(err, outflow.ErrNotAttempted):
			unattempted = append(unattempted, m)
		case outbox.IsMissing(err):
			missing = append(missing, m)
		case outflow.IsPermanent(err):
			r.drop(m)
			r.endMessage(q.page, m, outbox.Ending{State: outflow.Dead, LastError: err.Error(), Attempts: q.tries + 1})
		default:
			last = err
			again = append(again, m)
		}
	}
	r.pace(acknowledged, last)
	r.observe(s)
	if len(missing) > 0 {
		r.leave(q.page, missing) // nothing was taken: they wait as rows
		r.end(outbox.StreamFailing)
	}
	if len(unattempted) > 0 {
		r.queue = append(r.queue, &request{page: q.page, messages: unattempted, tries: q.tries,
			notBefore: time.Now().Add(streamBackoff)})
	}
	switch {
	case len(again) == 0:
	case q.tries+1 >= maxStreamTries || r.ended != "" || r.failures >= maxFailedRequests:
		r.handOver(q, again, last)
	default:
		r.queue = append(r.queue, &request{page: q.page, messages: again, tries: q.tries + 1,
			notBefore: time.Now().Add(streamBackoff << q.tries)})
	}
}

// pace adapts the requests at once to what the broker takes: half of them where it throttles or fails,
// one more for each round without. Failures without a success between them end the stream.
func (r *streaming) pace(acknowledged int, failure error) {
	if acknowledged > 0 {
		r.failures = 0
	}
	if failure == nil {
		r.limit = min(r.limit+1/r.limit, streamRequests)
		return
	}
	if acknowledged == 0 {
		r.failures++
	}
	if time.Since(r.warned) >= warnInterval {
		r.warned = time.Now()
		r.logTo().Warn("a stream's requests fail", "destination", outflow.DisplayDestination(r.in.Destination),
			"error", failure)
	}
	if r.failures >= maxFailedRequests {
		r.end(outbox.StreamFailing)
	}
	if time.Since(r.slowed) >= minSlowdown {
		r.limit, r.slowed = max(r.limit/2, 1), time.Now()
	}
}

// observe tells the breaker of a request: it worked where the broker has taken one of its messages.
func (r *streaming) observe(s sent) {
	var failed *outbox.PageMessage
	var err error
	for i, result := range s.results {
		switch {
		case result.Err == nil:
			r.turns.observe(r.logTo(), s.tried[i].ID, r.in.Destination, nil)
			r.Activities.store.Observe(r.in.Destination, s.tried[i].ID, outbox.Observation{Took: s.took})
			return
		case errors.Is(result.Err, outflow.ErrNotAttempted):
		case err == nil || outbox.IsMissing(result.Err):
			failed, err = s.tried[i], result.Err
		}
	}
	var failure *outflow.Failure
	asksForWait := errors.As(err, &failure) && failure.RetryAfter > 0
	if err == nil || !asksForWait && !outflow.IsPermanent(err) && r.failures <= quietFailures {
		return
	}
	r.turns.observe(r.logTo(), failed.ID, r.in.Destination, err)
	r.Activities.store.Observe(r.in.Destination, failed.ID, outbox.Observation{
		Err: err, Missing: r.grace > 0 && outbox.IsMissing(err) && errors.Is(err, outflow.ErrNoDestination),
	})
}

// leave gives messages back that were not sent.
func (r *streaming) leave(p *openPage, messages []*outbox.PageMessage) {
	refs := make([]outbox.Ref, 0, len(messages))
	for _, m := range messages {
		r.drop(m)
		refs = append(refs, m.Ref())
	}
	r.handing++
	var err error
	give := func(ctx context.Context) {
		for range leaveTries {
			if err = r.store.LeavePage(ctx, p.PageRef, refs); err == nil {
				return
			}
			time.Sleep(markRetry)
		}
	}
	r.do(context.Background(), give, func() {
		r.handing--
		if err != nil { // the page stands until the next attempt or a scanner frees it
			r.logTo().Warn("giving messages back", "error", err)
		}
		r.left(p, len(refs))
	})
}

// handOver has messages that failed again and again left to runs of their own.
func (r *streaming) handOver(q *request, messages []*outbox.PageMessage, failure error) {
	for _, m := range messages {
		r.drop(m)
		r.over = append(r.over, pageOver{q.page,
			outbox.HandedOver{Ref: m.Ref(), LastError: failure.Error(), Attempts: q.tries + 1}})
	}
}

// handOverNext hands over what there is of a page, by one statement at a time: two of them beside each
// other would both find room.
func (r *streaming) handOverNext(ctx context.Context) {
	if r.handingOver || len(r.over) == 0 {
		return
	}
	p := r.over[0].page
	var failed []outbox.HandedOver
	var others []pageOver
	for _, o := range r.over {
		if o.page == p {
			failed = append(failed, o.HandedOver)
		} else {
			others = append(others, o)
		}
	}
	r.over, r.handingOver = others, true
	var handed int
	var enough bool
	var err error
	r.do(ctx, func(ctx context.Context) { handed, enough, err = r.store.HandOver(ctx, p.PageRef, failed) }, func() {
		r.handingOver = false
		switch {
		case err != nil: // the page stands until it is freed
			r.logTo().Warn("handing messages over", "error", err)
		case !enough:
			r.end(outbox.StreamFailing)
		}
		r.progress.HandedOver += int64(handed)
		r.left(p, len(failed))
	})
}

// mark writes the ends that there are, by one statement at a time: what comes meanwhile goes with the
// next one.
func (r *streaming) mark(ctx context.Context, now time.Time) {
	if len(r.writing) > 0 || len(r.ends) == 0 || now.Before(r.markAgain) {
		return
	}
	n := min(len(r.ends), r.markSize)
	batch := r.ends[:n:n]
	r.ends, r.writing = r.ends[n:], batch
	endings := make([]outbox.Ending, 0, n)
	for _, e := range batch {
		endings = append(endings, e.Ending)
	}
	var finished []outbox.Finished
	r.do(ctx, func(ctx context.Context) { finished = r.store.FinishAll(ctx, endings) }, func() {
		r.writing = nil
		r.marked(batch, finished)
	})
}

// marked takes the answers of a statement that wrote ends. An end that was not written is tried again.
func (r *streaming) marked(batch []pageEnd, finished []outbox.Finished) {
	done := map[*openPage]int{}
	var again []pageEnd
	var last error
	for i, e := range batch {
		f := finished[i]
		if f.Err != nil && !errors.Is(f.Err, outflow.ErrNotFound) {
			again, last = append(again, e), f.Err
			continue
		}
		done[e.page]++
		if f.Err == nil && f.Generation == e.Generation && f.State == e.State {
			r.countEnd(e, f.At)
		}
	}
	for p, n := range done {
		r.left(p, n)
	}
	if r.keyed && len(done) > 0 {
		r.nextClaim = time.Time{} // messages behind these may be due
	}
	r.markAgain = time.Time{}
	r.markSize = resized(r.markSize, markMessages, len(again) == len(batch))
	if len(again) > 0 {
		r.logTo().Warn("writing the ends of a stream's messages", "messages", len(again), "error", last)
		r.ends = append(again, r.ends...)
		r.markAgain = time.Now().Add(markRetry)
	}
	r.keepNote()
}

// countEnd logs and counts an end.
func (r *streaming) countEnd(e pageEnd, at time.Time) {
	o := outflow.Outcome{
		ID: e.ID, Generation: e.Generation, State: e.State, Destination: r.in.Destination, LastError: e.LastError,
		FinishedAt: at,
	}
	if e.message != nil {
		o.Type, o.DueAt = e.message.Type, e.message.DueAt
	}
	r.Activities.ends.ended(r.logTo(), o)
	r.metrics.Ended(o)
	r.rate.add(1)
	switch o.State {
	case outflow.Delivered:
		r.progress.Delivered++
	case outflow.Dead:
		r.progress.Dead++
	case outflow.Expired:
		r.progress.Expired++
	case outflow.Cancelled:
		r.progress.Cancelled++
	}
}

// keepNote has the next heartbeat tell how far the stream is, and which acknowledgements wait for
// their ends.
func (r *streaming) keepNote() {
	r.kept = time.Now()
	r.progress.PerSecond = r.rate.perSecond()
	note := streamNote{Progress: r.progress}
	if !r.markAgain.IsZero() {
		for _, e := range slices.Concat(r.writing, r.ends) {
			if e.State == outflow.Delivered && len(note.Unmarked) < maxUnmarked {
				note.Unmarked = append(note.Unmarked,
					unmarked{ID: e.ID, Generation: e.Generation, BrokerID: e.BrokerMessageID})
			}
		}
	}
	r.note.Store(&note)
}

// free frees what earlier attempts have left behind.
func (r *streaming) free(ctx context.Context, now time.Time) {
	if r.ended != "" || r.freeing || now.Before(r.nextFree) {
		return
	}
	r.freeing = true
	var freed, left int
	var err error
	own := slices.Collect(maps.Keys(r.pages))
	r.do(ctx, func(ctx context.Context) { freed, left, err = r.store.FreePages(ctx, r.in.Destination, own) }, func() {
		r.freeing = false
		r.nextFree = time.Now().Add(freeInterval)
		switch {
		case err != nil:
			r.logTo().Warn("freeing pages", "error", err)
			r.lastDue = time.Now() // there may be some
		case freed > 0 || left > 0:
			r.lastDue = time.Now() // the stream waits for them
		}
		if freed > 0 {
			r.metrics.LeasesExpired(freed)
			r.logTo().Warn("a stream's process was lost; its messages are sent again",
				"destination", outflow.DisplayDestination(r.in.Destination), "messages", freed)
		}
	})
}

// noteProgress notes in the table how the stream goes. A stream that can't claim says nothing, so that
// starters soon deliver without it.
func (r *streaming) noteProgress(ctx context.Context, now time.Time) {
	if r.ended != "" || r.noting || now.Before(r.nextNote) || r.claimFailures >= maxClaimFailures {
		return
	}
	r.noting = true
	r.keepNote()
	state := r.state()
	var err error
	r.do(ctx, func(ctx context.Context) { err = r.store.NoteStream(ctx, state, r.first) }, func() {
		r.noting = false
		r.nextNote = now.Add(noteInterval)
		if err != nil {
			r.logTo().Warn("noting a stream's progress", "error", err)
			return
		}
		r.first = false
	})
}

// state is what the table has of the stream: the sum of its activities.
func (r *streaming) state() outbox.StreamState {
	return outbox.StreamState{Destination: r.in.Destination, Progress: r.in.Before.Plus(r.progress), Ended: r.ended}
}

// noteEnd notes why the stream ended. Without the note the hint ends by itself.
func (r *streaming) noteEnd(ctx context.Context) {
	limit := statementLimit / 5
	if !r.giveUp.IsZero() {
		limit = stopNote
	}
	inTime, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	if err := r.store.NoteStream(inTime, r.state(), r.first); err != nil {
		r.logTo().Warn("noting a stream's end", "error", err)
	}
}

// logTo is where the stream logs.
func (r *streaming) logTo() log.Logger { return r.logger(context.Background()) }

// rate counts messages of the last seconds.
type rate struct {
	began       time.Time
	count, last int
}

const rateSeconds = 3

func (t *rate) add(n int) {
	if t.began.IsZero() {
		t.began = time.Now()
	}
	t.count += n
}

// perSecond is the rate of the last full rateSeconds.
func (t *rate) perSecond() int {
	if t.began.IsZero() {
		return 0
	}
	if took := time.Since(t.began).Seconds(); took >= rateSeconds || t.last == 0 && took > 0.1 {
		rate := int(float64(t.count) / took)
		if took >= rateSeconds {
			t.last, t.count, t.began = rate, 0, time.Now()
		}
		return rate
	}
	return t.last
}
