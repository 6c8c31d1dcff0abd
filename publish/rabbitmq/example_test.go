package rabbitmq_test

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/rabbitmq"
)

// One message is published to the exchange "orders". A queue must be bound there.
func Example() {
	address, err := rabbitmq.ParseAddress(os.Getenv("AMQP_URL"))
	if err != nil {
		fmt.Println("AMQP_URL:", err)
		return
	}
	publisher := rabbitmq.New(address)
	defer publisher.Close()
	_, err = publish.NewRouter(publisher).Publish(context.Background(), outflow.Message{
		ID:          uuid.MustParse("0190a5b0-7c3e-7d50-9a2f-000000000001"),
		Destination: "rabbitmq://orders/order.placed",
		Type:        "order-placed",
		Payload:     []byte(`{"id":7}`),
	})
	if err != nil {
		fmt.Println(err)
	}
}

// A consumer decodes what it was delivered. Package inbox makes the effect of the message happen
// once; then it acknowledges.
func ExampleDecode() {
	ours := amqp.Delivery{
		MessageId: "0190a5b0-7c3e-7d50-9a2f-000000000001", Type: "order-placed", ContentType: "application/json",
		Headers: amqp.Table{"tenant": "acme"}, Body: []byte(`{"id":7}`),
	}
	for _, received := range []amqp.Delivery{ours, {Body: []byte("hello")}} {
		m, err := rabbitmq.Decode(received)
		switch {
		case errors.Is(err, rabbitmq.ErrNotOutflow):
			fmt.Println("another sender's message")
		case err != nil:
			fmt.Println(err)
		default:
			fmt.Println(m.ID, m.Type, m.Headers, string(m.Payload))
		}
	}
	// Output:
	// 0190a5b0-7c3e-7d50-9a2f-000000000001 order-placed map[tenant:acme] {"id":7}
	// another sender's message
}
