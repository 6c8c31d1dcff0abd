package outboxdb

import (
	"sync"
	"time"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
)

// leaseMargin is how much of its lease a claimed row must have left to be published without another
// read: a local publish (4 s) and its mark, and room for a process that stalls in between. The
// other half is mayPublish in package activities, which decides by the row.
const leaseMargin = 15 * time.Second

// handoff keeps the rows that this process has claimed until their runs, which usually start in the
// same process, take them over.
//   - A claimed row counts as seen pending once, and only while its lease has leaseMargin left, by
//     the monotonic clock from before the claim was sent.
//   - A row that was claimed before does not count: the run of that claim, whose start had no
//     answer, may have ended it since.
type handoff struct {
	mu   sync.Mutex
	held map[outbox.Ref]*held
}

type held struct {
	record         outbox.Record
	claimedAt      time.Time // before the claim was sent
	lease          time.Duration
	expiresIn      *time.Duration // from the claim
	claimedBefore  bool
	taken, settled chan struct{}
	isTaken        bool
}

func newHandoff() *handoff { return &handoff{held: make(map[outbox.Ref]*held)} }

// put keeps claimed rows and forgets those whose lease has run out: no run here has taken or
// settled them, so they run elsewhere or not at all.
func (h *handoff) put(now time.Time, rows []*held) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for ref, old := range h.held {
		if now.Sub(old.claimedAt) > old.lease {
			h.drop(ref)
		}
	}
	for _, r := range rows {
		h.drop(r.record.Ref()) // an older claim is over
		h.held[r.record.Ref()] = r
	}
}

// take returns the claimed row to the first run that asks for it, if the message may be published
// as it was claimed.
func (h *handoff) take(ref outbox.Ref) (outbox.Record, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.held[ref]
	if r == nil || r.isTaken {
		return outbox.Record{}, false
	}
	r.isTaken = true
	close(r.taken)
	record := r.record
	r.record.Message = outflow.Message{} // the payload is needed once
	elapsed := time.Since(r.claimedAt)
	if r.claimedBefore || elapsed > r.lease-leaseMargin {
		return outbox.Record{}, false
	}
	record.Expired = r.expiresIn != nil && *r.expiresIn <= elapsed
	return record, true
}

// settle lets go of a row: its end is written, or its run has left the fast path.
func (h *handoff) settle(ref outbox.Ref) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.drop(ref)
}

// drop runs under the lock.
func (h *handoff) drop(ref outbox.Ref) {
	if r := h.held[ref]; r != nil {
		delete(h.held, ref)
		close(r.settled)
	}
}
