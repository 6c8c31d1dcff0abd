package operator

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
)

// resendSQL copies delivered messages under new IDs ($4, in the order of $1), due now. Due time and
// expiry of the first delivery do not bound the copy. A copy comes last in the order of its key.
const resendSQL = beginAct + `
    INSERT INTO outbox.messages AS m
           (id, destination, type, payload, content_type, headers, ordering_key, callback, callback_payload,
            follower, parked, available_at)
    SELECT n.new_id, o.destination, o.type, o.payload, o.content_type, o.headers, o.ordering_key,
           o.callback, o.callback_payload, o.ordering_key IS NOT NULL, o.ordering_key IS NOT NULL,
           CASE WHEN o.ordering_key IS NOT NULL THEN ` + neverSQL + ` ELSE clock_timestamp() END
      FROM unnest($1::uuid[], $4::uuid[]) AS n (id, new_id)
      JOIN locked AS l ON l.id = n.id AND l.state = 'delivered'
      JOIN outbox.messages AS o ON o.id = ANY (ARRAY[l.id])
 RETURNING m.id, m.destination, m.generation
), noted AS (
    INSERT INTO outbox.audit (act, message_id, destination, generation, who, why, detail)
    SELECT a.act, a.message_id, outbox.display_destination(c.destination),
           CASE a.act WHEN 'send' THEN 1 ELSE l.generation END, $2::text, $3::text, a.detail
      FROM changed AS c
      JOIN unnest($1::uuid[], $4::uuid[]) AS n (id, new_id) ON n.new_id = c.id
      JOIN locked AS l ON l.id = n.id
     CROSS JOIN LATERAL (VALUES ('resend', n.id, pg_catalog.jsonb_build_object('new_id', c.id)),
                                ('send', c.id, pg_catalog.jsonb_build_object('resend_of', n.id))
           ) AS a (act, message_id, detail)
)` + movedSQL + `
SELECT l.*, c.id IS NOT NULL AS done, l.state AS new_state, l.generation AS new_generation,
       l.destination AS new_destination, l.available_at AS new_available_at
  FROM locked AS l
  JOIN unnest($1::uuid[], $4::uuid[]) AS n (id, new_id) ON n.id = l.id
  LEFT JOIN changed AS c ON c.id = n.new_id
 WHERE (SELECT count(*) FROM moved) > 0`

// Resend sends copies of delivered messages, each with an ID of its own, due now. It copies one
// message at a time, and answers for those that it came to before an error.
func (o *Operator) Resend(ctx context.Context, ids []uuid.UUID, by Actor) ([]Answer, error) {
	answers := make([]Answer, 0, len(ids))
	for _, id := range ids {
		c, newID, err := o.resend(ctx, id, by)
		if err != nil {
			return answers, err
		}
		switch {
		case c.Done:
			a := c.answer(Done, "sent again as %s", newID)
			a.NewID = &newID
			answers = append(answers, a)
		case c.State == outflow.Pending:
			answers = append(answers, c.answer(Refused, "pending: it was not delivered yet"))
		default:
			answers = append(answers, c.answer(Refused, "%s: \"outflow retry\" sends it", c.State))
		}
	}
	return answers, nil
}

func (o *Operator) resend(ctx context.Context, id uuid.UUID, by Actor) (change, uuid.UUID, error) {
	newID, err := uuid.NewV7()
	if err != nil {
		return change{}, uuid.Nil, fmt.Errorf("making a message ID: %w", err)
	}
	changes, err := o.act(ctx, "resending", resendSQL, []uuid.UUID{id}, by, []uuid.UUID{newID})
	if err != nil {
		return change{}, uuid.Nil, err
	}
	return changes[0], newID, nil
}
