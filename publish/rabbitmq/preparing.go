package rabbitmq

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/outflowhq/outflow"
)

// preparing is the time in which a call gets its connection, its channel and its place in the
// window: nothing was sent yet.
type preparing struct {
	doing string
	// until ends with the caller's context, and leaves the call's own time of it.
	until context.Context
	// caller is the caller's context.
	caller context.Context
	// whole says that until leaves as much time as an answer may take at most: what takes longer
	// does not answer.
	whole bool
}

// prepare returns the time to prepare a call that takes so long.
func (p *Publisher) prepare(ctx context.Context, doing string, call time.Duration) (preparing, context.CancelFunc) {
	t := preparing{doing: doing, caller: ctx, whole: true}
	end := time.Now().Add(p.timeout)
	if deadline, ok := ctx.Deadline(); ok && deadline.Add(-call).Before(end) {
		end, t.whole = deadline.Add(-call), false
	}
	var cancel context.CancelFunc
	t.until, cancel = context.WithDeadline(ctx, end)
	return t, cancel
}

// why is the caller's reason, or another.
func (t preparing) why(otherwise error) error { return cmp.Or(t.caller.Err(), otherwise) }

// over is the failure of a call that has no time left to prepare, or nil.
func (t preparing) over() error {
	if t.until.Err() == nil {
		return nil
	}
	return notAttempted(t.doing, t.why(errors.New("too little time is left")))
}

// late is the failure of a call whose time to prepare is over. last is the last failure of what it
// waited for, or nil. Something that is merely slow does not fail: the next call finds it done.
func (t preparing) late(last, notYet error) error {
	switch {
	case t.caller.Err() != nil:
		return notAttempted(t.doing, t.caller.Err())
	case last != nil:
		return outflow.Unavailable(fmt.Errorf("%s: %w; no answer to the next try yet", t.doing, last))
	case t.whole:
		return unreachable(t.doing, fmt.Errorf("no answer in time: %w", notYet))
	}
	return notAttempted(t.doing, notYet)
}

// noRoom is the failure of a call that could not hand its message over in time, and for what it
// waited.
func (t preparing) noRoom(s *session, why string) error {
	if reason := s.blocked(); reason != "" && t.caller.Err() == nil {
		return blocked(t.doing, reason)
	}
	return t.late(nil, errors.New(why))
}

// unreachable is a failure that is no message's.
func unreachable(doing string, err error) error {
	return outflow.Unavailable(fmt.Errorf("%s: %w (%s; %s)", doing, err, notSent, seeURL+" and the broker"))
}
