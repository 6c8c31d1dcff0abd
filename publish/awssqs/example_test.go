package awssqs_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/awssqs"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

// One message is published and received. A real program makes its client with
// sqs.NewFromConfig.
func Example() {
	server := httptest.NewServer(&fakesqs.Server{AutoCreate: true})
	defer server.Close()
	sqsClient := sqs.New(sqs.Options{
		BaseEndpoint: aws.String(server.URL), Region: "eu-west-1",
		Credentials: credentials.NewStaticCredentialsProvider("fake", "fake", ""),
	})
	ctx := context.Background()

	router := publish.NewRouter(awssqs.New(sqsClient))
	_, err := router.Publish(ctx, outflow.Message{
		ID:          uuid.MustParse("0190a5b0-7c3e-7d50-9a2f-000000000001"),
		Destination: "sqs://welcome-emails",
		Type:        "welcome-email",
		Payload:     []byte(`{"to":"ada@example.com"}`),
	})
	if err != nil {
		fmt.Println(err)
		return
	}

	out, err := sqsClient.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{
		QueueUrl:              aws.String(server.URL + "/000000000000/welcome-emails"),
		MessageAttributeNames: []string{"All"},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, received := range out.Messages {
		m, err := awssqs.Decode(received)
		fmt.Println(m.ID, m.Type, string(m.Payload), err)
	}
	// Output: 0190a5b0-7c3e-7d50-9a2f-000000000001 welcome-email {"to":"ada@example.com"} <nil>
}

// A consumer decodes what ReceiveMessage returned, if it asked for all attributes. Package
// inbox makes the effect of the message happen once.
func ExampleDecode() {
	text := func(value string) types.MessageAttributeValue {
		return types.MessageAttributeValue{DataType: aws.String("String"), StringValue: &value}
	}
	ours := types.Message{
		Body: aws.String(`{"id":7}`),
		MessageAttributes: map[string]types.MessageAttributeValue{
			awssqs.AttributeMessageID:   text("0190a5b0-7c3e-7d50-9a2f-000000000001"),
			awssqs.AttributeType:        text("order-placed"),
			awssqs.AttributeContentType: text("application/json"),
			"tenant":                    text("acme"),
		},
	}
	for _, received := range []types.Message{ours, {Body: aws.String("hello")}} {
		m, err := awssqs.Decode(received)
		switch {
		case errors.Is(err, awssqs.ErrNotOutflow):
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
