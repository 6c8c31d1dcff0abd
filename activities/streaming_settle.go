package activities

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	"go.temporal.io/sdk/log"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/outbox"
)

// settle takes the answers of a request.
func (r *streaming) settle(q *request, s sent) {
	for _, m := range s.expired {
		r.drop(m)
		r.endMessage(q.page, m, outbox.Ending{State: outflow.Expired, LastError: ReasonExpired, Attempts: q.tries})
	}
	switch {
	case len(s.unsent) == 0:
	case q.tries > 0 && r.ended == "": // a stream that took it again would not get further
		r.handOver(q, s.unsent)
	default:
		r.leave(q.page, &request{messages: s.unsent, tries: q.tries, failure: q.failure})
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
	r.pace(q, acknowledged, last)
	r.observe(s)
	if len(missing) > 0 {
		r.leave(q.page, &request{messages: missing, tries: q.tries, failure: q.failure}) // they wait as rows
		r.end(outbox.StreamFailing)
	}
	if len(unattempted) > 0 {
		r.queue = append(r.queue, &request{page: q.page, messages: unattempted, tries: q.tries, failure: q.failure,
			notBefore: time.Now().Add(streamBackoff)})
	}
	if len(again) == 0 {
		return
	}
	next := &request{page: q.page, messages: again, tries: q.tries + 1, failure: last,
		notBefore: time.Now().Add(streamBackoff << q.tries)}
	if next.tries >= maxStreamTries || r.ended == outbox.StreamFailing {
		r.handOver(next, again)
		return
	}
	r.queue = append(r.queue, next) // an ended stream gives it back
}

// pace adapts the requests at once to what the broker takes: half of them where it throttles or fails,
// one more for each round without. Failures without a success between them end the stream. A message that
// is tried again tells nothing of the destination, but of itself.
func (r *streaming) pace(q *request, acknowledged int, failure error) {
	if acknowledged > 0 {
		r.failures = 0
	}
	if failure == nil {
		r.limit = min(r.limit+1/r.limit, streamRequests)
		return
	}
	if acknowledged == 0 && q.tries == 0 {
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

// unfinished are messages of a request that leave their page without an end.
func (r *streaming) unfinished(q *request, messages []*outbox.PageMessage) (left []outbox.Unfinished) {
	lastError := ""
	if q.failure != nil {
		lastError = q.failure.Error()
	}
	for _, m := range messages {
		r.drop(m)
		left = append(left, outbox.Unfinished{Ref: m.Ref(), LastError: lastError, Attempts: q.tries})
	}
	return left
}

// leave gives the messages of requests of a page back.
func (r *streaming) leave(p *openPage, requests ...*request) {
	var left []outbox.Unfinished
	for _, q := range requests {
		left = append(left, r.unfinished(q, q.messages)...)
	}
	r.give(p, left, 0)
}

// give gives messages of a page back. It waits for rows that other sessions have locked, but not for long
// where the stream ends: these come back when their page is freed. So many have been waited for already.
func (r *streaming) give(p *openPage, left []outbox.Unfinished, waitedFor int) {
	r.handing++
	rest, failed := left, 0
	var err error
	r.do(context.Background(), func(ctx context.Context) {
		for failed < leaveTries && len(rest) > 0 && ctx.Err() == nil {
			var locked []uuid.UUID
			if locked, err = r.store.LeavePage(ctx, p.PageRef, rest); err == nil {
				rest = only(rest, locked)
			} else {
				failed++
			}
			if len(rest) > 0 {
				time.Sleep(markRetry)
			}
		}
	}, func() {
		r.handing--
		p.passed -= waitedFor
		switch {
		case len(rest) == 0:
		case err != nil:
			r.logTo().Warn("giving messages back", "error", err)
		case r.ended == "":
			p.passed += len(rest)
			r.left(p, len(left)-len(rest))
			r.give(p, rest, len(rest))
			return
		default:
			r.logTo().Warn("giving messages back", "messages", len(rest), "error", outbox.ErrLocked)
		}
		r.left(p, len(left))
	})
}

// only are those of the messages that have these IDs.
func only(messages []outbox.Unfinished, ids []uuid.UUID) (found []outbox.Unfinished) {
	for _, u := range messages {
		if slices.Contains(ids, u.ID) {
			found = append(found, u)
		}
	}
	return found
}

// handOver has messages of a request that failed again and again left to runs of their own.
func (r *streaming) handOver(q *request, messages []*outbox.PageMessage) {
	for _, u := range r.unfinished(q, messages) {
		r.over = append(r.over, pageOver{page: q.page, Unfinished: u})
	}
}

// handOverNext hands over what there is of a page, by one statement at a time: two of them beside each
// other would both find room. What it could not hand over is tried again, but not for long where the
// stream ends: that comes back when its page is freed.
func (r *streaming) handOverNext(ctx context.Context, now time.Time) {
	if r.handingOver || len(r.over) == 0 || now.Before(r.overAgain) {
		return
	}
	p := r.over[0].page
	var failed []outbox.Unfinished
	var others []pageOver
	for _, o := range r.over {
		if o.page != p {
			others = append(others, o)
			continue
		}
		failed = append(failed, o.Unfinished)
		if o.locked {
			p.passed--
		}
	}
	r.over, r.handingOver = others, true
	var done outbox.HandedOver
	var err error
	r.do(ctx, func(ctx context.Context) { done, err = r.store.HandOver(ctx, p.PageRef, failed) }, func() {
		r.handingOver = false
		r.progress.HandedOver += int64(done.Messages)
		rest := only(failed, done.Locked)
		if err != nil {
			rest = failed
		} else if !done.Enough {
			r.end(outbox.StreamFailing)
		}
		if len(rest) > 0 {
			err = cmp.Or(err, outbox.ErrLocked)
			r.logTo().Warn("handing messages over", "messages", len(rest), "error", err)
			r.overAgain = time.Now().Add(markRetry)
		}
		if r.ended != "" && time.Since(r.endsAt) > statementLimit {
			rest = nil
		}
		for _, u := range rest {
			o := pageOver{page: p, Unfinished: u, locked: errors.Is(err, outbox.ErrLocked)}
			if r.over = append(r.over, o); o.locked {
				p.passed++
			}
		}
		r.left(p, len(failed)-len(rest))
	})
}

// mark writes the ends that there are, by one statement at a time: what comes meanwhile goes with the
// next one.
func (r *streaming) mark(ctx context.Context, now time.Time) {
	if len(r.writing) > 0 || now.Before(r.markAgain) {
		return
	}
	if len(r.locked) > 0 && !now.Before(r.lockedAgain) {
		r.ends = append(r.locked, r.ends...)
		r.lock(nil)
	}
	if len(r.ends) == 0 {
		return
	}
	n := min(len(r.ends), r.markSize)
	batch := r.ends[:n:n]
	r.ends, r.writing, r.writeBegan = r.ends[n:], batch, now
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

// marked takes the answers of a statement that wrote ends. An end that was not written is tried again:
// that of a locked row without the others, which go on.
func (r *streaming) marked(batch []pageEnd, finished []outbox.Finished) {
	done := map[*openPage]int{}
	var again, locked []pageEnd
	var last error
	for i, e := range batch {
		f := finished[i]
		switch {
		case errors.Is(f.Err, outbox.ErrLocked):
			locked, last = append(locked, e), f.Err
			continue
		case f.Err != nil && !errors.Is(f.Err, outflow.ErrNotFound):
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
	r.markAgain, r.markFailures = time.Time{}, r.markFailures+1
	if len(again) < len(batch) {
		r.markFailures = 0
	}
	r.markSize = resized(r.markSize, markMessages, r.markFailures > 0)
	if n := len(again) + len(locked); n > 0 {
		r.logTo().Warn("writing the ends of a stream's messages", "messages", n, "error", last)
	}
	if len(again) > 0 {
		r.ends = append(again, r.ends...)
		r.markAgain = time.Now().Add(markRetry)
	}
	if len(locked) > 0 {
		r.lock(append(r.locked, locked...))
		r.lockedAgain = time.Now().Add(markRetry)
	}
	r.keepNote()
}

// lock notes the ends whose rows are locked.
func (r *streaming) lock(ends []pageEnd) {
	r.locked = ends
	for _, p := range r.pages {
		if p != nil {
			p.locked = 0
		}
	}
	for _, e := range ends {
		if e.page != nil {
			e.page.locked++
		}
	}
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

// tells reports whether heartbeats are to tell of acknowledgements: their ends can't be written, or not
// soon.
func (r *streaming) tells(now time.Time) bool {
	slow := len(r.writing) > 0 && now.Sub(r.writeBegan) >= timing.StreamHeartbeatInterval
	return slow || !r.markAgain.IsZero() || len(r.locked) > 0
}

// keepNote has the next heartbeat tell how far the stream is, and which acknowledgements wait for
// their ends.
func (r *streaming) keepNote() {
	r.kept = time.Now()
	r.progress.PerSecond = r.rate.perSecond()
	note := streamNote{Progress: r.progress}
	if r.tells(r.kept) {
		for _, e := range slices.Concat(r.locked, r.writing, r.ends) {
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

// noteProgress notes in the table how the stream goes. A stream that is stuck says nothing, so that
// starters soon deliver without it.
func (r *streaming) noteProgress(ctx context.Context, now time.Time) {
	if r.ended != "" || r.noting || now.Before(r.nextNote) || r.stuck() {
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
