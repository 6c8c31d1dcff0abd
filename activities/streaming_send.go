package activities

import (
	"context"
	"time"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/internal/tracing"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/publish"
)

// sendQueued begins requests, as far as the bounds allow. A stream that ends gives its messages back.
func (r *streaming) sendQueued(now time.Time) {
	if r.ended != "" {
		byPage := map[*openPage][]*request{}
		for _, q := range r.queue {
			byPage[q.page] = append(byPage[q.page], q)
		}
		for p, requests := range byPage {
			r.leave(p, requests...)
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
// hand, and no end unwritten: the process may be lost to them. Where an end waits for a locked row, the
// heartbeats have its acknowledgement.
func (r *streaming) mayBeside(p *openPage) bool {
	if r.sending != nil && !r.sending.onlyLocked() {
		return r.sending == p
	}
	if !p.Suspect {
		return true
	}
	for _, o := range r.pages {
		if o != p && (o == nil || !o.onlyLocked()) {
			return false
		}
	}
	return r.requests == 0 && len(r.ends)+len(r.writing) == 0
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
