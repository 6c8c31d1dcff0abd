package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/operator"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

const (
	longestOrder = 3   // minutes
	orderedKeys  = 100 // each at each of the queues
	// One request in this many fails. A message of a key waits for the retry of the one before it.
	orderFailsIn = 20
	orderKills   = 4 * time.Second
	orderActs    = 500 * time.Millisecond
)

// orderedQueues have the messages of the same keys, a FIFO queue among them.
var orderedQueues = []string{"steps", "steps.fifo"}

// order has messages of a hundred ordering keys delivered while requests fail, programs are killed
// and an operator works on messages. It says whether the first arrivals of each key came in order.
func order(ctx context.Context, c *chaos) error {
	f, err := c.deploy(ctx, "ordering")
	if err != nil {
		return err
	}
	f.AnswersIn(answers)
	f.Queues.AutoCreate = false
	for _, q := range orderedQueues {
		f.Queues.CreateQueue("", q, nil)
	}
	chance := rand.New(rand.NewPCG(c.seed, 0))
	o := &orderRun{chaos: c, fleet: f, chance: chance}
	return errors.Join(o.run(ctx), f.close(c.stack.Logs()))
}

type orderRun struct {
	*chaos
	*fleet
	chance       *rand.Rand
	kills, moved int
}

func (o *orderRun) run(ctx context.Context) error {
	o.Queues.Inject(fakesqs.Fault{
		When:  func(fakesqs.Request) bool { return rand.IntN(orderFailsIn) == 0 },
		Error: &fakesqs.Error{Status: http.StatusServiceUnavailable, Code: "ServiceUnavailable", Message: "try again"},
	})
	length := time.Duration(min(o.minutes, longestOrder) * float64(time.Minute))
	load := o.StartLoadOf(o.rate, func(n int) outflow.Message {
		return outflow.Message{
			Destination: "sqs://" + orderedQueues[n%len(orderedQueues)], Type: "numbered",
			OrderingKey: fmt.Sprintf("key-%d", n/len(orderedQueues)%orderedKeys), Payload: fmt.Appendf(nil, `{"number":%d}`, n),
		}
	})
	disturbErr := o.disturb(ctx, length)
	load.Stop()
	o.Queues.Heal("")
	draining, cancel := context.WithTimeout(ctx, drainWithin)
	defer cancel()
	drained, drainErr := o.Drain(draining)
	tally, err := load.Tally(ctx, orderedQueues...)
	if err != nil {
		return errors.Join(disturbErr, drainErr, err)
	}
	tally.Drain = drained
	wrong, checked, err := o.outOfOrder(ctx)
	o.result("%s", tally)
	o.result("kills %d, messages that an operator moved %d; first arrivals in order %d, out of order %d",
		o.kills, o.moved, checked-len(wrong), len(wrong))
	errs := []error{disturbErr, drainErr, err, o.holdLost(tally)}
	for _, w := range wrong[:min(len(wrong), 10)] {
		o.result("  %s", w)
	}
	if len(wrong) > 0 {
		errs = append(errs, fmt.Errorf("%d messages came before an earlier one of their ordering key", len(wrong)))
	}
	if checked == 0 {
		errs = append(errs, errors.New("nothing was delivered: this shows nothing"))
	}
	return errors.Join(errs...)
}

// disturb kills a program every few seconds, and has an operator retry and redirect messages.
func (o *orderRun) disturb(ctx context.Context, length time.Duration) error {
	over := time.After(length)
	kill, act := time.NewTicker(orderKills), time.NewTicker(orderActs)
	defer kill.Stop()
	defer act.Stop()
	ops := operator.New(o.Pool, nil, o.World.Name)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-over:
			return nil
		case <-kill.C:
			members := o.members()
			victim := members[o.chance.IntN(len(members))]
			o.say("kill-%s", victim.Name)
			if err := victim.Kill(); err != nil {
				return err
			}
			o.kills++
		case <-act.C:
			if err := o.operate(ctx, ops); err != nil {
				return err
			}
		}
	}
}

// operate redirects a pending message to the other queue, or retries one.
func (o *orderRun) operate(ctx context.Context, ops *operator.Operator) error {
	var id uuid.UUID
	var destination string
	err := o.Pool.QueryRow(ctx, `SELECT id, destination FROM outbox.messages WHERE state = 'pending'
		ORDER BY random() LIMIT 1`).Scan(&id, &destination)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("choosing a message: %w", err)
	}
	by := operator.Actor{Who: "chaos", Why: "to see whether the others keep their order"}
	if o.chance.IntN(2) == 0 {
		_, err = ops.Retry(ctx, []uuid.UUID{id}, by)
		return err
	}
	other := orderedQueues[0]
	if destination == "sqs://"+other {
		other = orderedQueues[1]
	}
	o.moved++
	_, err = ops.Redirect(ctx, []uuid.UUID{id}, "sqs://"+other, by)
	return err
}

// outOfOrder returns the messages that came before an earlier one of their key and queue, and how
// many were looked at. What an operator started again has another place.
func (o *orderRun) outOfOrder(ctx context.Context) (wrong []string, checked int, err error) {
	rows, err := o.Pool.Query(ctx,
		`SELECT id, seq, destination || ' ' || ordering_key AS key FROM outbox.messages WHERE generation = 1`)
	if err != nil {
		return nil, 0, fmt.Errorf("reading the order: %w", err)
	}
	type place struct {
		ID  uuid.UUID `db:"id"`
		Seq int64     `db:"seq"`
		Key string    `db:"key"`
	}
	places, err := pgx.CollectRows(rows, pgx.RowToStructByName[place])
	if err != nil {
		return nil, 0, fmt.Errorf("reading the order: %w", err)
	}
	byID := map[uuid.UUID]place{}
	for _, p := range places {
		byID[p.ID] = p
	}
	last, seen := map[string]place{}, map[uuid.UUID]bool{}
	for _, a := range o.Queues.Acceptances() {
		id, err := uuid.Parse(a.MessageAttributes["outflow-message-id"].StringValue)
		p, known := byID[id]
		if err != nil || !known || seen[id] {
			continue
		}
		seen[id] = true
		checked++
		if before := last[p.Key]; before.Seq > p.Seq {
			wrong = append(wrong, fmt.Sprintf("%s: message %s (%d) came after %s (%d)", p.Key, p.ID, p.Seq, before.ID,
				before.Seq))
		}
		last[p.Key] = p
	}
	return wrong, checked, nil
}
