package publish_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish"
)

// topics is a broker that keeps its topics in memory.
type topics struct {
	messages map[string][]outflow.Message // by topic
	full     bool
}

var _ publish.Publisher = (*topics)(nil)

func (*topics) Scheme() string { return outflow.SchemeSNS }

// Publish says of every failure what it means for the next attempt.
func (b *topics) Publish(_ context.Context, m outflow.Message) (brokerMessageID string, err error) {
	d, err := outflow.ParseDestination(m.Destination)
	if err != nil {
		return "", outflow.Permanent(err)
	}
	if _, ok := b.messages[d.Name]; !ok {
		return "", outflow.Permanent(fmt.Errorf("%s: %w: create the topic", d, outflow.ErrNoDestination))
	}
	if b.full {
		return "", outflow.Unavailable(fmt.Errorf("%s: %w", d, errors.New("the broker is full")))
	}
	b.messages[d.Name] = append(b.messages[d.Name], m)
	return fmt.Sprint("broker-", len(b.messages[d.Name])), nil
}

// A publisher of your own has a scheme and one method. Its errors say whether a later
// attempt can succeed. Package publishtest tests what Publisher promises beyond this.
func ExamplePublisher() {
	broker := &topics{messages: map[string][]outflow.Message{"orders": nil}}
	router := publish.NewRouter(broker)
	if err := router.Err(); err != nil {
		fmt.Println(err)
		return
	}
	send := func(destination string) {
		brokerMessageID, err := router.Publish(context.Background(), outflow.Message{
			ID:          uuid.MustParse("0190a5b0-7c3e-7d50-9a2f-000000000001"),
			Destination: destination, Type: "order-placed", Payload: []byte(`{"id":7}`),
		})
		if err != nil {
			fmt.Println(outflow.ClassOf(err), "failure:", err)
			return
		}
		fmt.Println("acknowledged as", brokerMessageID)
	}
	send("sns://orders")
	send("sns://invoices")
	broker.full = true
	send("sns://orders")
	// Output:
	// acknowledged as broker-1
	// permanent failure: sns://invoices: the destination does not exist: create the topic
	// unavailable failure: sns://orders: the broker is full
}
