package awssqs

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/coalesce"
	"github.com/outflowhq/outflow/internal/metrics"
	"github.com/outflowhq/outflow/publish"
)

// entry is an encoded message with its size in bytes, for a queue whose address is
// known.
type entry struct {
	types.SendMessageBatchRequestEntry
	size int
	to   *address
}

type result = coalesce.Result[string]

// sender makes the shared calls of one destination.
type sender struct {
	caller
	lookup *lookup
	record *metrics.Recorder
	// quick says that its calls end before the publisher's own timeout.
	quick bool
}

// send is the shared call: one batch to the address that was found last. It answers
// each entry. A whole request that is refused for content, or panics, says nothing of
// any one entry: each is then sent alone, in order.
func (s *sender) send(ctx context.Context, batch []entry) []result {
	to := batch[len(batch)-1].to
	results, v, err := s.request(ctx, to, batch)
	if err != nil && v.gone {
		// The queue may have been recreated under another URL. Where it was not,
		// the lookup says that it does not exist.
		if to, err = s.lookup.address(ctx, s.timeout/2, to); err != nil {
			return fill(results, err)
		}
		results, v, err = s.request(ctx, to, batch)
		if err != nil && v.gone {
			// Found and not found in one moment: it is just being made or deleted.
			// The text alone: nobody may take it for a queue that does not exist.
			return fill(results, outflow.Retryable(fmt.Errorf("the queue was found at a second look: %v", err)))
		}
	}
	switch {
	case err == nil:
		return results
	case v.content && len(batch) > 1:
		for i := range batch {
			results[i] = s.alone(ctx, to, batch[i:i+1])
		}
		return results
	}
	return fill(results, err)
}

func (s *sender) alone(ctx context.Context, to *address, one []entry) result {
	results, _, err := s.request(ctx, to, one)
	if err != nil {
		return result{Err: err}
	}
	return results[0]
}

// request makes one SendMessageBatch and maps its answer to the batch by the
// entries' IDs, which are their places. err is the failure of the whole: after a
// panic SQS may have the messages, and they are sent again with the same IDs.
func (s *sender) request(ctx context.Context, to *address, batch []entry) (results []result, v verdict, err error) {
	results = make([]result, len(batch))
	doing := "sending to " + s.destination.String()
	defer func() {
		if p := recover(); p != nil {
			v, err = panicked, outflow.Permanent(fmt.Errorf("%s: %w", doing, publish.Recovered(p)))
		}
	}()
	if !enoughTime(ctx, s.least()) {
		return results, v, outflow.Retryable(fmt.Errorf("%s: %w", doing, outflow.ErrNotAttempted))
	}
	in := &sqs.SendMessageBatchInput{QueueUrl: &to.url}
	for i, e := range batch {
		e.Id = aws.String(strconv.Itoa(i))
		in.Entries = append(in.Entries, e.SendMessageBatchRequestEntry)
	}
	a := &attempt{doing: doing, sends: true}
	if len(batch) == 1 {
		a.size = batch[0].size
	}
	began := time.Now()
	out, err := s.api.SendMessageBatch(a.trace(ctx), in, s.options)
	s.record.Batch(outflow.SchemeSQS, len(batch), time.Since(began), err)
	if err != nil {
		v, _ = verdictOf(err, a.connected.Load())
		f := a.failure(err)
		f.CutShort = s.quick && v == unanswered && errors.Is(ctx.Err(), context.DeadlineExceeded)
		return results, v, f
	}
	fill(results, outflow.Retryable(fmt.Errorf("%s: the answer leaves this message out (it is sent again with the same message ID)", doing)))
	for _, e := range out.Successful {
		if i, ok := place(e.Id, results); ok {
			results[i] = accepted(doing, batch[i], e)
		}
	}
	// After the successes: an entry that is in both lists is sent again, since a
	// duplicate is better than a loss.
	for _, e := range out.Failed {
		if i, ok := place(e.Id, results); ok {
			results[i] = result{Err: entryFailure(doing, e, batch[i].size)}
		}
	}
	return results, v, nil
}

// accepted checks what SQS says it stored. A wrong checksum concerns this entry
// only.
func accepted(doing string, sent entry, e types.SendMessageBatchResultEntry) result {
	if e.MD5OfMessageBody != nil {
		sum := md5.Sum([]byte(*sent.MessageBody))
		if want := hex.EncodeToString(sum[:]); *e.MD5OfMessageBody != want {
			return result{Err: outflow.Retryable(fmt.Errorf(
				"%s: SQS stored a body with MD5 %s instead of %s (it is sent again with the same message ID)",
				doing, brief(*e.MD5OfMessageBody), want))}
		}
	}
	return result{Value: aws.ToString(e.MessageId)}
}

func place(id *string, results []result) (int, bool) {
	i, err := strconv.Atoi(aws.ToString(id))
	return i, err == nil && i >= 0 && i < len(results)
}

func fill(results []result, err error) []result {
	for i := range results {
		results[i] = result{Err: err}
	}
	return results
}

func tooLarge(d outflow.Destination, size int) error {
	return outflow.Permanent(fmt.Errorf(
		"sending to %s: the message has %d bytes with its attributes and encoding, and SQS takes %d (enqueue a reference to the content instead)",
		d, size, maxBytes))
}
