package operator

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow/internal/text"
)

// newDueAt is $4, or $5 from now; a time in the past means now.
const newDueAt = `greatest(coalesce($4::timestamptz, now() + $5::interval), now())`

// rescheduleSQL makes pending messages due at another time. A message can't be due after its
// expiry. It keeps its place in the order of its key: the others wait for the time of a head.
const rescheduleSQL = beginAct + `
    UPDATE outbox.messages AS m
       SET due_at = ` + newDueAt + `, generation = m.generation + 1,
           claims = 0, retrying = false, parked = true, started = false, streamed = false,
           available_at = CASE WHEN m.follower THEN m.available_at
                ELSE greatest(coalesce($4::timestamptz, now() + $5::interval), now() + ` + yieldWait + `) END
      FROM locked AS l
     WHERE m.id = ANY (ARRAY[l.id]) AND l.finished_at IS NULL AND NOT l.cancel_requested AND NOT l.in_page
       AND (l.expires_at > ` + newDueAt + `) IS NOT FALSE` + actColumns + `
       'reschedule' AS act,
       pg_catalog.jsonb_build_object('due_at', m.due_at, 'was_due_at', l.due_at) AS detail` + endAct

// Reschedule makes pending messages due at a time, or where that is zero in a duration from now,
// with the next generation. It leaves a message that would then be due after its expiry, and one that
// a stream has in hand. It does not hold back a publish that is under way.
func (o *Operator) Reschedule(
	ctx context.Context, ids []uuid.UUID, at time.Time, in time.Duration, by Actor,
) ([]Answer, error) {
	var dueAt *time.Time
	if !at.IsZero() {
		dueAt = &at
	}
	changes, err := o.act(ctx, "rescheduling", rescheduleSQL, ids, by, dueAt, in)
	if err != nil {
		return nil, err
	}
	return o.moved(ctx, changes, by, "rescheduled", func(c change) string {
		if c.ExpiresAt != nil {
			return "it expires at " + text.Stamp(*c.ExpiresAt) + ", and would be due after that"
		}
		return ""
	})
}
