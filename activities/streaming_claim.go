package activities

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/outbox"
)

// share is what this stream has of a bound of its process.
func (r *streaming) share(bound int) int { return max(bound/int(max(r.active.Load(), 1)), 1) }

// claim claims the next page, where there is room for it.
func (r *streaming) claim(ctx, work context.Context, now time.Time) {
	room := min(pageBytes, r.share(streamBytes)-r.bytes)
	if r.ended != "" || r.claiming || r.full() || room < 1 || r.hasSuspect() || now.Before(r.nextClaim) {
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
		r.took(work, page, req)
	})
}

// resized is how many messages the next statement has at most, after one of size.
func resized(size, most int, failed bool) int {
	if failed {
		return max(size/2, leastMessages)
	}
	return min(size+size/16+1, most)
}

// hasSuspect reports whether a page in hand is a suspect, and not only rows of it that are locked.
func (r *streaming) hasSuspect() bool {
	for _, p := range r.pages {
		if p != nil && p.Suspect && !p.onlyLocked() {
			return true
		}
	}
	return false
}

// took takes a claimed page in hand.
func (r *streaming) took(work context.Context, page outbox.Page, asked outbox.PageRequest) {
	if len(page.Messages) == 0 {
		r.nextClaim = time.Now().Add(idlePause)
		return
	}
	r.from, r.lastDue = page.Next, time.Now()
	if len(page.Messages) < asked.MaxMessages {
		r.from = r.from.Add(-commitLag)
	}
	p := &openPage{Page: page, holder: asked.Holder, left: len(page.Messages)}
	p.sends, p.close = endAt(work, page.ClaimedAt.Add(timing.StreamSends))
	r.pages[asked.Holder] = p
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
	if len(page.Messages) < asked.MaxMessages/10 && !page.Suspect && !r.keyed {
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
