package queues_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	neturl "net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/outflowhq/outflow/devstack/queues"
)

// start brings up an endpoint and a client of the kind that Outflow uses.
func start(t *testing.T) (context.Context, *sqs.Client) {
	t.Helper()
	ctx, c, _ := startServer(t)
	return ctx, c
}

func startServer(t *testing.T) (context.Context, *sqs.Client, *queues.Server) {
	t.Helper()
	s, err := queues.Start(queues.Options{LogFile: filepath.Join(t.TempDir(), "queues.log")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	cfg, err := config.LoadDefaultConfig(ctx, config.WithRegion(queues.Region), config.WithSharedConfigFiles(nil),
		config.WithSharedCredentialsFiles(nil),
		config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider("fake", "fake", "")))
	if err != nil {
		t.Fatal(err)
	}
	return ctx, sqs.NewFromConfig(cfg, func(o *sqs.Options) {
		o.BaseEndpoint = aws.String(s.URL())
		o.Retryer = aws.NopRetryer{}
	}), s
}

// A queue of --queue is there for a client, and stays when it is made again.
func TestCreate(t *testing.T) {
	ctx, c, s := startServer(t)
	for _, name := range []string{"welcome-email", "welcome-email", "orders.fifo"} {
		if err := s.Create(ctx, name); err != nil {
			t.Fatal(err)
		}
		if _, err := c.GetQueueUrl(ctx, &sqs.GetQueueUrlInput{QueueName: aws.String(name)}); err != nil {
			t.Fatal(err)
		}
	}
	list, err := c.ListQueues(ctx, &sqs.ListQueuesInput{})
	if err != nil || len(list.QueueUrls) != 2 {
		t.Errorf("queues %v (%v)", list, err)
	}
}

func create(ctx context.Context, t *testing.T, c *sqs.Client, name string, attributes map[string]string) string {
	t.Helper()
	out, err := c.CreateQueue(ctx, &sqs.CreateQueueInput{QueueName: aws.String(name), Attributes: attributes})
	if err != nil {
		t.Fatal(err)
	}
	return aws.ToString(out.QueueUrl)
}

// send sends n messages in one batch and checks that the answer lists each.
func send(ctx context.Context, t *testing.T, c *sqs.Client, url string, n int,
	edit func(int, *types.SendMessageBatchRequestEntry)) {
	t.Helper()
	var entries []types.SendMessageBatchRequestEntry
	for i := range n {
		e := types.SendMessageBatchRequestEntry{Id: aws.String(fmt.Sprint(i)),
			MessageBody: aws.String(fmt.Sprintf("body %d", i)),
			MessageAttributes: map[string]types.MessageAttributeValue{"outflow-id": {DataType: aws.String("String"),
				StringValue: aws.String(fmt.Sprint(i))}}}
		if edit != nil {
			edit(i, &e)
		}
		entries = append(entries, e)
	}
	out, err := c.SendMessageBatch(ctx, &sqs.SendMessageBatchInput{QueueUrl: aws.String(url), Entries: entries})
	if err != nil {
		t.Fatal(err)
	}
	if len(out.Successful) != n || len(out.Failed) != 0 || aws.ToString(out.Successful[0].MessageId) == "" {
		t.Fatalf("sent %d: %d successful, %d failed", n, len(out.Successful), len(out.Failed))
	}
}

func receive(ctx context.Context, t *testing.T, c *sqs.Client, url string, wait int32) []types.Message {
	t.Helper()
	out, err := c.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{QueueUrl: aws.String(url), MaxNumberOfMessages: 10,
		WaitTimeSeconds:       wait,
		MessageAttributeNames: []string{"All"}})
	if err != nil {
		t.Fatal(err)
	}
	return out.Messages
}

func TestBatchesListTheirEntries(t *testing.T) {
	ctx, c := start(t)
	url := create(ctx, t, c, "orders", nil)
	send(ctx, t, c, url, 10, nil)
	messages := receive(ctx, t, c, url, 5)
	if len(messages) != 10 || aws.ToString(messages[3].Body) != "body 3" ||
		aws.ToString(messages[3].MessageAttributes["outflow-id"].StringValue) != "3" {
		t.Fatalf("received %d messages: %+v", len(messages), messages)
	}
	var entries []types.DeleteMessageBatchRequestEntry
	for i, m := range messages {
		entries = append(entries, types.DeleteMessageBatchRequestEntry{Id: aws.String(fmt.Sprint(i)),
			ReceiptHandle: m.ReceiptHandle})
	}
	out, err := c.DeleteMessageBatch(ctx, &sqs.DeleteMessageBatchInput{QueueUrl: aws.String(url), Entries: entries})
	if err != nil || len(out.Successful) != 10 || len(out.Failed) != 0 {
		t.Fatalf("deleting: %+v, %v", out, err)
	}
	attributes, err := c.GetQueueAttributes(ctx,
		&sqs.GetQueueAttributesInput{QueueUrl: aws.String(url), AttributeNames: []types.QueueAttributeName{"All"}})
	if err != nil || attributes.Attributes["ApproximateNumberOfMessages"] != "0" ||
		attributes.Attributes["MaximumMessageSize"] != "1048576" {
		t.Errorf("attributes of the emptied queue: %+v, %v", attributes, err)
	}
}

func TestFIFOQueueDeduplicates(t *testing.T) {
	ctx, c := start(t)
	url := create(ctx, t, c, "orders.fifo",
		map[string]string{"FifoQueue": "true", "ContentBasedDeduplication": "false"})
	for range 2 {
		send(ctx, t, c, url, 2, func(i int, e *types.SendMessageBatchRequestEntry) {
			e.MessageGroupId, e.MessageDeduplicationId = aws.String(fmt.Sprintf("group %d",
				i)), aws.String(fmt.Sprintf("id %d", i))
		})
	}
	if got := receive(ctx, t, c, url, 0); len(got) != 2 {
		t.Errorf("received %d messages, want each of the two once", len(got))
	}
}

func TestQueueURLAndErrors(t *testing.T) {
	ctx, c := start(t)
	url := create(ctx, t, c, "orders", nil)
	if !strings.HasPrefix(url, "http://127.0.0.1:") || !strings.HasSuffix(url, "/"+queues.Account+"/orders") {
		t.Errorf("the queue's URL is no address that a client can reach: %s", url)
	}
	form, err := http.PostForm(*c.Options().BaseEndpoint,
		neturl.Values{"Action": {"GetQueueUrl"}, "QueueName": {"orders"}})
	if err != nil {
		t.Fatal(err)
	}
	defer form.Body.Close()
	if body, err := io.ReadAll(form.Body); err != nil ||
		!strings.Contains(string(body), "<QueueUrl>"+url+"</QueueUrl>") {
		t.Errorf("by a form: %s (%v), want %s", body, err, url)
	}
	found, err := c.GetQueueUrl(ctx, &sqs.GetQueueUrlInput{QueueName: aws.String("orders")})
	if err != nil || aws.ToString(found.QueueUrl) != url {
		t.Errorf("looked up: %+v, %v; created: %s", found, err, url)
	}
	missing := aws.String(strings.Replace(url, "orders", "missing", 1))
	for name, call := range map[string]func() error{
		"look-up": func() error {
			_, err := c.GetQueueUrl(ctx, &sqs.GetQueueUrlInput{QueueName: aws.String("missing")})
			return err
		},
		"attributes": func() error {
			_, err := c.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{QueueUrl: missing})
			return err
		},
		"send": func() error {
			_, err := c.SendMessage(ctx, &sqs.SendMessageInput{QueueUrl: missing, MessageBody: aws.String("x")})
			return err
		},
		"receive": func() error {
			_, err := c.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{QueueUrl: missing, WaitTimeSeconds: 20})
			return err
		},
	} {
		if err := call(); !errors.As(err, new(*types.QueueDoesNotExist)) {
			t.Errorf("%s on a queue that is not there: %v, want QueueDoesNotExist", name, err)
		}
	}
	var entries []types.SendMessageBatchRequestEntry
	for range 11 {
		entries = append(entries, types.SendMessageBatchRequestEntry{Id: aws.String("same"),
			MessageBody: aws.String("x")})
	}
	_, err = c.SendMessageBatch(ctx, &sqs.SendMessageBatchInput{QueueUrl: aws.String(url), Entries: entries})
	if !errors.As(err, new(*types.TooManyEntriesInBatchRequest)) {
		t.Errorf("eleven entries: %v", err)
	}
}

func TestLongPollWaitsAndLetsOthersWork(t *testing.T) {
	ctx, c := start(t)
	url := create(ctx, t, c, "orders", map[string]string{"ReceiveMessageWaitTimeSeconds": "20"})
	got := make(chan []types.Message, 1)
	go func() {
		out, err := c.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{QueueUrl: aws.String(url)}) // the queue's own wait
		if err != nil {
			t.Error(err)
			out = &sqs.ReceiveMessageOutput{}
		}
		got <- out.Messages
	}()
	create(ctx, t, c, "another", nil) // must not wait for the poll
	select {
	case early := <-got:
		t.Fatalf("an empty queue answered at once: %v", early)
	case <-time.After(300 * time.Millisecond):
	}
	send(ctx, t, c, url, 1, nil)
	if messages := <-got; len(messages) != 1 {
		t.Errorf("the long poll got %d messages, want the one that came", len(messages))
	}
}

// goaws reads its tables without a lock: under the race detector, or with bad luck, this ends the
// process without ours.
func TestQueuesAreMadeAndUsedAtOnce(t *testing.T) {
	ctx, c := start(t)
	url := create(ctx, t, c, "orders", nil)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 20 {
				if _, err := c.CreateQueue(ctx,
					&sqs.CreateQueueInput{QueueName: aws.String(fmt.Sprintf("q-%d-%d", i, j))}); err != nil {
					t.Error(err)
				}
				if _, err := c.SendMessage(ctx,
					&sqs.SendMessageInput{QueueUrl: aws.String(url), MessageBody: aws.String("x")}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}
