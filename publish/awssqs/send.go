package awssqs

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/coalesce"
	"github.com/outflowhq/outflow/internal/metrics"
	"github.com/outflowhq/outflow/internal/panics"
	"github.com/outflowhq/outflow/internal/text"
	"github.com/outflowhq/outflow/publish/internal/aws"
)

// entry is an encoded message with its size in bytes, for a queue whose address is known.
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
	// cutShort says that its calls end before the publisher's own timeout.
	cutShort bool
}

// send is the shared call: it sends one batch to the address that was found last, and answers
// each entry. A whole request that is refused for content, or panics, says nothing about any
// one entry: send then sends each alone, in order.
func (s *sender) send(ctx context.Context, batch []entry) []result {
	to := batch[len(batch)-1].to
	results, kind, err := s.request(ctx, to, batch)
	if err != nil && kind == aws.Missing {
		// The queue may have been recreated under another URL. Where it was not, the look-up
		// says that it does not exist.
		if to, err = s.lookup.address(ctx, s.timeout/2, to); err != nil {
			return fill(results, err)
		}
		results, kind, err = s.request(ctx, to, batch)
		if err != nil && kind == aws.Missing {
			// Found and not found in one moment: it is being created or deleted. The text
			// alone, so that no caller takes it for a queue that does not exist.
			return fill(results, outflow.Retryable(fmt.Errorf("the queue was found at a second look: %v", err)))
		}
	}
	switch {
	case err == nil:
		return results
	case kind == aws.Content && len(batch) > 1:
		for i := range batch {
			results[i] = s.sendAlone(ctx, to, batch[i:i+1])
		}
		return results
	}
	return fill(results, err)
}

func (s *sender) sendAlone(ctx context.Context, to *address, single []entry) result {
	results, _, err := s.request(ctx, to, single)
	if err != nil {
		return result{Err: err}
	}
	return results[0]
}

// request makes one SendMessageBatch and maps its answer to the batch by the entries' IDs,
// which are their places. err is the failure of the whole request. A panic counts as one for
// content; SQS may have the messages by then, and gets them again with the same IDs.
func (s *sender) request(ctx context.Context, to *address, batch []entry) (results []result, kind aws.Kind, err error) {
	results = make([]result, len(batch))
	doing := "sending to " + s.destination.String()
	defer panics.Catch(func(p *panics.Error) {
		kind, err = aws.Content, outflow.Permanent(panics.OfPublisher(doing, p))
	})
	if !aws.EnoughTime(ctx, s.minTime()) {
		return results, "", outflow.Retryable(fmt.Errorf("%s: %w", doing, outflow.ErrNotAttempted))
	}
	in := &sqs.SendMessageBatchInput{QueueUrl: &to.url}
	for i, e := range batch {
		e.Id = sdk.String(strconv.Itoa(i))
		in.Entries = append(in.Entries, e.SendMessageBatchRequestEntry)
	}
	a := &aws.Attempt{Service: service, Doing: doing, Sends: true}
	if len(batch) == 1 {
		a.Size = batch[0].size
	}
	began := time.Now()
	out, err := s.api.SendMessageBatch(a.Trace(ctx), in, s.options)
	s.record.Batch(outflow.SchemeSQS, len(batch), time.Since(began), err)
	if err != nil {
		kind, f := a.Failure(err)
		f.CutShort = s.cutShort && kind == aws.Unanswered && errors.Is(ctx.Err(), context.DeadlineExceeded)
		return results, kind, f
	}
	s.answer(doing, batch, out, results)
	return results, "", nil
}

// answer fills in the results that SQS's answer has for the entries of a batch.
func (s *sender) answer(doing string, batch []entry, out *sqs.SendMessageBatchOutput, results []result) {
	fill(results, outflow.Retryable(fmt.Errorf(
		"%s: the answer leaves this message out (it is sent again with the same message ID)", doing)))
	for _, e := range out.Successful {
		if i, ok := place(e.Id, results); ok {
			results[i] = accepted(doing, batch[i], e)
		}
	}
	// After the successes: an entry that is in both lists is sent again, since a duplicate is
	// better than a loss.
	for _, e := range out.Failed {
		if i, ok := place(e.Id, results); ok {
			results[i] = result{Err: service.EntryFailure(aws.Refusal{
				Doing: doing, Code: sdk.ToString(e.Code), Said: sdk.ToString(e.Message),
				SenderFault: e.SenderFault, Size: batch[i].size,
			})}
		}
	}
}

// accepted checks what SQS says it stored. A wrong checksum concerns this entry only.
func accepted(doing string, sent entry, e types.SendMessageBatchResultEntry) result {
	if e.MD5OfMessageBody != nil {
		sum := md5.Sum([]byte(*sent.MessageBody))
		if want := hex.EncodeToString(sum[:]); *e.MD5OfMessageBody != want {
			return result{Err: outflow.Retryable(fmt.Errorf(
				"%s: SQS stored a body with MD5 %s instead of %s (it is sent again with the same message ID)",
				doing, text.Limit(*e.MD5OfMessageBody, 300), want))}
		}
	}
	return result{Value: sdk.ToString(e.MessageId)}
}

func place(id *string, results []result) (int, bool) {
	i, err := strconv.Atoi(sdk.ToString(id))
	return i, err == nil && i >= 0 && i < len(results)
}

func fill(results []result, err error) []result {
	for i := range results {
		results[i] = result{Err: err}
	}
	return results
}

func tooLarge(d outflow.Destination, size int) error {
	return outflow.Permanent(fmt.Errorf("sending to %s: the message has %d bytes with its attributes and encoding, "+
		"and SQS takes %d (enqueue a reference to the content instead)", d, size, maxBytes))
}
