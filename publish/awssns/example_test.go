package awssns_test

import (
	"context"
	"fmt"
	"net/http/httptest"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/awssns"
	"github.com/outflowhq/outflow/publish/awssqs"
	"github.com/outflowhq/outflow/publish/publishtest/fakesns"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

// A message is published to a topic, and received from a queue that is subscribed to it. A real
// program makes its clients with sns.NewFromConfig and sts.NewFromConfig.
func Example() {
	queues := &fakesqs.Server{AutoCreate: true}
	topics := &fakesns.Server{Queues: queues}
	ofQueues, ofTopics := httptest.NewServer(queues), httptest.NewServer(topics)
	defer ofQueues.Close()
	defer ofTopics.Close()
	fake := credentials.NewStaticCredentialsProvider("fake", "fake", "")
	snsClient := sns.New(sns.Options{BaseEndpoint: &ofTopics.URL, Region: "eu-west-1", Credentials: fake})
	stsClient := sts.New(sts.Options{BaseEndpoint: &ofTopics.URL, Region: "eu-west-1", Credentials: fake})
	sqsClient := sqs.New(sqs.Options{BaseEndpoint: &ofQueues.URL, Region: "eu-west-1", Credentials: fake})
	topics.CreateTopic("arn:aws:sns:eu-west-1:000000000000:orders", nil)
	ctx := context.Background()
	_, err := snsClient.Subscribe(ctx, &sns.SubscribeInput{
		TopicArn: aws.String("arn:aws:sns:eu-west-1:000000000000:orders"), Protocol: aws.String("sqs"),
		Endpoint:   aws.String("arn:aws:sqs:eu-west-1:000000000000:mailer"),
		Attributes: map[string]string{"FilterPolicy": `{"outflow-type":["order-placed"]}`},
	})
	if err != nil {
		fmt.Println(err)
		return
	}

	router := publish.NewRouter(awssns.New(snsClient, awssns.WithIdentity(stsClient)))
	for _, messageType := range []string{"order-placed", "order-paid"} {
		_, err := router.Publish(ctx, outflow.Message{
			ID: uuid.New(), Destination: "sns://orders", Type: messageType, Payload: []byte(`{"id":7}`),
		})
		if err != nil {
			fmt.Println(err)
			return
		}
	}

	out, err := sqsClient.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{
		QueueUrl:              aws.String(ofQueues.URL + "/000000000000/mailer"),
		MessageAttributeNames: []string{"All"}, MaxNumberOfMessages: 10,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, received := range out.Messages {
		m, err := awssqs.DecodeNotification(received)
		fmt.Println(m.Type, string(m.Payload), err)
	}
	// Output: order-placed {"id":7} <nil>
}
