package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"golang.org/x/sync/errgroup"

	"github.com/outflowhq/outflow/publish/awssqs"
)

// queueAlone is what the queue service takes from one client in batches, and no database: messages with
// the attributes that Outflow's have, as many requests at once as a stream makes.
const queueAlone = "queue-alone"

const (
	aloneRequests = 64
	aloneBatch    = 10 // the most that SQS takes
)

// alonePart sends messages in batches, as many requests at once as aloneRequests. It warms up, says
// so, waits for a line and measures. Arguments: queue service, queue, how many.
func alonePart(ctx context.Context, args []string, stdout io.Writer) error {
	if len(args) != 3 {
		return errors.New(queueAlone + " wants a queue service, a queue and a number")
	}
	n, err := strconv.Atoi(args[2])
	if err != nil {
		return fmt.Errorf("reading the number: %w", err)
	}
	sender := newPeerSender(args[0])
	all, _ := peerMessages(args[1], load{messages: warmup + n}.bodies())
	if _, err := sendBatches(ctx, sender, all[:warmup]); err != nil {
		return err
	}
	if err := reportLine(stdout, struct{}{}); err != nil {
		return err
	}
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return fmt.Errorf("waiting for the start: %w", err)
	}
	took, err := sendBatches(ctx, sender, all[warmup:])
	if err != nil {
		return err
	}
	if err := reportLine(stdout, floorDone{Seconds: took.Seconds()}); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

func sendBatches(ctx context.Context, sender peerSender, all []peerMessage) (time.Duration, error) {
	began := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(aloneRequests)
	for len(all) > 0 && ctx.Err() == nil {
		some := all[:min(len(all), aloneBatch)]
		all = all[len(some):]
		g.Go(func() error { return sender.sendBatch(ctx, some) })
	}
	err := g.Wait()
	return time.Since(began), err
}

// sendBatch sends messages of one queue in one request.
func (s peerSender) sendBatch(ctx context.Context, all []peerMessage) error {
	entries := make([]types.SendMessageBatchRequestEntry, 0, len(all))
	for i, m := range all {
		entries = append(entries, types.SendMessageBatchRequestEntry{
			Id: aws.String(strconv.Itoa(i)), MessageBody: aws.String(m.Body), MessageAttributes: outflowAttributes(m.ID),
		})
	}
	out, err := s.sqs.SendMessageBatch(ctx, &sqs.SendMessageBatchInput{
		QueueUrl: aws.String(s.url + all[0].Queue), Entries: entries,
	})
	if err == nil && len(out.Failed) > 0 {
		err = fmt.Errorf("sending a batch: %s", aws.ToString(out.Failed[0].Message))
	}
	return err
}

// outflowAttributes are those of a message of Outflow.
func outflowAttributes(id string) map[string]types.MessageAttributeValue {
	all := messageID(id)
	for name, value := range map[string]string{
		awssqs.AttributeType: "bench", awssqs.AttributeContentType: "application/json",
	} {
		all[name] = types.MessageAttributeValue{DataType: aws.String("String"), StringValue: &value}
	}
	return all
}

// drainAlone has the process of queue-alone send and time it.
func (w *world) drainAlone(ctx context.Context, queue string, messages int) (r result, err error) {
	c, err := w.startPart(queueAlone, w.queues.url, queue, fmt.Sprint(messages))
	if err != nil {
		return result{}, err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	if err := c.read(ctx, &struct{}{}); err != nil {
		return result{}, err
	}
	before, err := w.settle(ctx, c)
	if err != nil {
		return result{}, err
	}
	if err := w.queues.reset(ctx); err != nil {
		return result{}, err
	}
	if _, err := fmt.Fprintln(c.stdin, "go"); err != nil {
		return result{}, fmt.Errorf("starting %s: %w", queueAlone, err)
	}
	var done floorDone
	if err := c.read(ctx, &done); err != nil {
		return result{}, err
	}
	after, err := w.usage([]*child{c})
	if err != nil {
		return result{}, err
	}
	r = result{seconds: done.Seconds, cpu: after.minus(before)}
	if r.memory, err = peakMemory([]*child{c}); err != nil {
		return result{}, err
	}
	r.requests, err = w.requests(ctx, messages)
	return r, err
}
