package control

import (
	"context"
	"errors"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outboxdb"
)

// manyRows answers for each of several messages; the table goes away before the
// one that has no row.
type manyRows map[uuid.UUID]outboxdb.Change

var errGone = errors.New("the server closed the connection")

func (m manyRows) Resend(_ context.Context, id uuid.UUID, _ outboxdb.By) (outboxdb.Change, uuid.UUID, error) {
	c, known := m[id]
	if !known {
		return outboxdb.Change{}, uuid.Nil, errGone
	}
	return c, copyOf(id), nil
}

// copyOf is the ID that a copy would have.
func copyOf(id uuid.UUID) uuid.UUID { return uuid.NewSHA1(uuid.NameSpaceOID, id[:]) }

func TestResendAnswers(t *testing.T) {
	table := manyRows{}
	put := func(state outflow.State) uuid.UUID {
		c := (&oneRow{row: standing(state, string(state)), done: state == outflow.Delivered}).change()
		table[c.ID] = c
		return c.ID
	}
	delivered, pending, dead, expired, cancelled := put(outflow.Delivered), put(outflow.Pending), put(outflow.Dead), put(outflow.Expired), put(outflow.Cancelled)
	nobody := uuid.New()
	table[nobody] = outboxdb.Change{Standing: outboxdb.Standing{ID: nobody}}
	newID := copyOf(delivered)
	want := []Answer{
		{ID: delivered, Verdict: Done, Text: "sent again as " + newID.String(), State: outflow.Delivered, Generation: 1, NewID: &newID},
		{ID: pending, Verdict: Refused, Text: "pending: it was not delivered yet", State: outflow.Pending, Generation: 1},
		{ID: dead, Verdict: Refused, Text: `dead: "outflow retry" sends it`, State: outflow.Dead, Generation: 1},
		{ID: expired, Verdict: Refused, Text: `expired: "outflow retry" sends it`, State: outflow.Expired, Generation: 1},
		{ID: cancelled, Verdict: Refused, Text: `cancelled: "outflow retry" sends it`, State: outflow.Cancelled, Generation: 1},
		{ID: nobody, Verdict: Refused, Text: "not found"},
	}
	ids := []uuid.UUID{delivered, pending, dead, expired, cancelled, nobody}
	answers, err := Desk{}.Resend(t.Context(), table, ids)
	require.NoError(t, err)
	assert.Equal(t, want, answers)

	answers, err = Desk{}.Resend(t.Context(), table, append(ids[:2:2], uuid.New(), dead))
	require.ErrorIs(t, err, errGone)
	assert.Equal(t, want[:2], answers, "what it came to before that")
}
