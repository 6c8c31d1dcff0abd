package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish/awssqs"
)

// What the destinations of the scenario order are called at each broker.
const (
	orderedName = "steps"
	orderedFIFO = orderedName + ".fifo"
	orderedPath = "/" + orderedName
)

// ordered is one destination of the scenario, and what has arrived there, in its order.
type ordered struct {
	destination string
	arrived     func() ([]uuid.UUID, error)
}

func (d ordered) message(key string, n int) outflow.Message {
	return outflow.Message{Destination: d.destination, Type: "numbered", OrderingKey: key,
		Payload: fmt.Appendf(nil, `{"number":%d}`, n)}
}

// prepare makes a destination of each kind.
func (o *orderRun) prepare() error {
	for _, queue := range []string{orderedName, orderedFIFO} {
		o.Queues.CreateQueue("", queue, nil)
		o.places = append(o.places, ordered{"sqs://" + queue, func() ([]uuid.UUID, error) { return o.accepted(queue), nil }})
	}
	o.places = append(o.places, ordered{o.receiver.URL(orderedPath), o.taken})
	if o.rabbit == nil {
		return nil
	}
	if err := o.rabbit.Bind(orderedName, routingKey); err != nil {
		return fmt.Errorf("binding %s: %w", orderedName, err)
	}
	o.places = append(o.places, ordered{toExchange(orderedName),
		func() ([]uuid.UUID, error) { return o.rabbit.TakeInOrder(orderedName) }})
	return nil
}

// accepted are the messages that SQS took for a queue. A FIFO queue drops the second copy of one.
func (f *fleet) accepted(queue string) (ids []uuid.UUID) {
	for _, a := range f.Queues.Acceptances() {
		if a.Queue == queue {
			id, _ := uuid.Parse(a.MessageAttributes[awssqs.AttributeMessageID].StringValue)
			ids = append(ids, id)
		}
	}
	return ids
}

// taken are the messages that the receiver took.
func (o *orderRun) taken() (ids []uuid.UUID, err error) {
	for _, text := range o.receiver.Took(orderedPath) {
		id, err := uuid.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("reading a webhook-id: %w", err)
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// arrivals are what arrived at each destination.
func arrivals(places []ordered) (map[string][]uuid.UUID, error) {
	all := map[string][]uuid.UUID{}
	for _, d := range places {
		ids, err := d.arrived()
		if err != nil {
			return nil, fmt.Errorf("reading what arrived at %s: %w", d.destination, err)
		}
		all[d.destination] = ids
	}
	return all, nil
}

// placeInOrder is a message's place in the order of its key.
type placeInOrder struct {
	ID  uuid.UUID `db:"id"`
	Seq int64     `db:"seq"`
	Key string    `db:"ordering_key"`
}

// holdOrder prints how many first arrivals came in the order of their key, for each destination, and
// errs where one did not. What was redirected is left out: it has another place.
func (o *orderRun) holdOrder(ctx context.Context, arrived map[string][]uuid.UUID) error {
	return o.chaos.holdOrder(ctx, o.fleet, arrived, o.moved, orderedKeys)
}

// holdOrder is orderRun's, for a number of keys at each destination.
func (c *chaos) holdOrder(
	ctx context.Context, f *fleet, arrived map[string][]uuid.UUID, moved map[uuid.UUID]bool, wanted int,
) error {
	rows, err := f.Pool.Query(ctx,
		`SELECT id, seq, ordering_key FROM outbox.messages WHERE ordering_key IS NOT NULL AND type = 'numbered'`)
	if err != nil {
		return fmt.Errorf("reading the order: %w", err)
	}
	places, err := pgx.CollectRows(rows, pgx.RowToStructByName[placeInOrder])
	if err != nil {
		return fmt.Errorf("reading the order: %w", err)
	}
	byID := map[uuid.UUID]placeInOrder{}
	for _, p := range places {
		if !moved[p.ID] {
			byID[p.ID] = p
		}
	}
	var errs []error
	for _, destination := range slices.Sorted(maps.Keys(arrived)) {
		wrong, keys := outOfOrder(byID, arrived[destination])
		total, fewest := 0, len(byID)
		for _, n := range keys {
			total, fewest = total+n, min(fewest, n)
		}
		c.result("%s: %d keys, %d messages not redirected, of each key at least %d; first arrivals out of order %d",
			destination, len(keys), total, fewest, len(wrong))
		for _, w := range wrong[:min(len(wrong), 10)] {
			c.result("  %s", w)
		}
		if len(wrong) > 0 {
			errs = append(errs, fmt.Errorf("%s: %d messages came before an earlier one of their ordering key",
				destination, len(wrong)))
		}
		if len(keys) < wanted {
			errs = append(errs, fmt.Errorf("%s: messages of %d keys arrived, of %d: this shows too little",
				destination, len(keys), wanted))
		}
	}
	return errors.Join(errs...)
}

// outOfOrder returns the messages whose first arrival came after that of a later one of their key, and
// how many of each key arrived. It leaves out what is not in byID.
func outOfOrder(byID map[uuid.UUID]placeInOrder, arrived []uuid.UUID) (wrong []string, keys map[string]int) {
	last, seen := map[string]placeInOrder{}, map[uuid.UUID]bool{}
	keys = map[string]int{}
	for _, id := range arrived {
		p, known := byID[id]
		if !known || seen[id] {
			continue
		}
		seen[id] = true
		keys[p.Key]++
		if before := last[p.Key]; before.Seq > p.Seq {
			wrong = append(wrong, fmt.Sprintf("%s: message %s (%d) came after %s (%d)", p.Key, p.ID, p.Seq, before.ID,
				before.Seq))
			continue
		}
		last[p.Key] = p
	}
	return wrong, keys
}
