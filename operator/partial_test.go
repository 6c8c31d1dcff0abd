package operator

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

// requested is a pending message whose cancel is requested.
func requested() outboxdb.Cancel {
	return outboxdb.Cancel{ID: uuid.New(), Found: true, Done: true, State: outflow.Pending, Generation: 1}
}

// hanging are runs that do not answer.
type hanging struct{ noTemporal }

func (*hanging) Cancel(ctx context.Context, _ string) error {
	<-ctx.Done()
	return ctx.Err()
}

// cancels are messages whose cancel is requested; the looks at some fail.
type cancels struct {
	requests []outboxdb.Cancel
	fails    func(id uuid.UUID) bool
}

func (c *cancels) RequestCancel(context.Context, []uuid.UUID, string, string) ([]outboxdb.Cancel, error) {
	return c.requests, nil
}

func (c *cancels) EndCancelled(context.Context, outbox.Ref, string, string) (bool, error) {
	return false, errors.New("not asked for here")
}

func (c *cancels) Message(_ context.Context, id uuid.UUID) (MessageStatus, error) {
	if c.fails != nil && c.fails(id) {
		return MessageStatus{}, errAway
	}
	return MessageStatus{ID: id, State: outflow.Pending, CancelRequested: true}, nil
}

// The answers for what was committed before an error come with it: nothing else shows them.
func TestCancelAnswersBesideAnError(t *testing.T) {
	ended := requested()
	ended.State = outflow.Cancelled
	store := &cancels{requests: []outboxdb.Cancel{ended, requested(), requested()},
		fails: func(uuid.UUID) bool { return true }}
	answers, err := cancelWith(t.Context(), &noTemporal{}, store, uuid.Nil, time.Minute)
	require.ErrorIs(t, err, errAway)
	require.Len(t, answers, 3)
	assert.Equal(t, Done, answers[0].Verdict)
	for i, a := range answers[1:] {
		assert.Equal(t, store.requests[i+1].ID, a.ID)
		assert.Contains(t, []Verdict{Undecided, Failed}, a.Verdict)
		assert.Contains(t, a.Text, "requested: ", "it stays marked")
	}
}

// A Temporal that hangs takes no more time than the wait.
func TestCancelKeepsItsWait(t *testing.T) {
	store := &cancels{}
	for range 20 {
		store.requests = append(store.requests, requested())
	}
	began := time.Now()
	answers, err := cancelWith(t.Context(), &hanging{}, store, uuid.Nil, 100*time.Millisecond)
	require.NoError(t, err)
	assert.Less(t, time.Since(began), 15*time.Second, "a second for all of them")
	require.Len(t, answers, 20)
	for _, a := range answers {
		assert.Equal(t, Failed, a.Verdict)
		assert.NotContains(t, a.Text, "<nil>")
	}
}

// refuseRetries makes the table refuse the retry of a dead message.
const refuseRetries = `
CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'connection refused'; END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON outbox.messages FOR EACH ROW
  WHEN (OLD.state = 'dead' AND NEW.state = 'pending') EXECUTE FUNCTION public.refuse()`

func TestRedirectAnswersBesideAnError(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	execute(t, pool, refuseRetries)
	pending, dead := enqueue(t, pool, message("sqs://old"))[0], finished(t, pool, message("sqs://old"), outflow.Dead)
	answers, err := New(pool, &noTemporal{}, "").Redirect(t.Context(), []uuid.UUID{pending, dead}, "sqs://new", ada)
	require.ErrorContains(t, err, "connection refused")
	require.Len(t, answers, 2)
	assert.Equal(t, Done, answers[0].Verdict, "it is redirected")
	assert.Equal(t, "sqs://new", value[string](t, pool, `SELECT destination FROM outbox.messages WHERE id = $1`,
		pending))
	assert.Equal(t, Refused, answers[1].Verdict)
}
