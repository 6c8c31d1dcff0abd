package awsbatch

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/coalesce"
	"github.com/outflowhq/outflow/internal/metrics"
	"github.com/outflowhq/outflow/internal/panics"
	"github.com/outflowhq/outflow/internal/text"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/internal/aws"
)

// entry is an encoded message with its size in bytes, for a destination whose address is known.
type entry struct {
	aws.Encoded
	size int
	to   *Address
}

type result = coalesce.Result[string]

// sender makes the requests of one destination.
type sender struct {
	*Service
	destination outflow.Destination
	finder      Finder
	timeout     time.Duration
	// cutShort says that its requests end before the publisher's own timeout.
	cutShort bool
	record   *metrics.Recorder
}

// minTime is the time that an attempt to send must have left.
func minTime(timeout time.Duration) time.Duration { return timeout / 5 }

// send sends one batch to the address that was found last, and answers each entry. A whole
// request that is refused for content, or panics, says nothing about any one entry: send then
// sends each alone, in order.
func (s *sender) send(ctx context.Context, batch []entry) []result {
	to := batch[len(batch)-1].to
	results, kind, err := s.request(ctx, to, batch)
	if err != nil {
		to, results, kind, err = s.again(ctx, to, batch, kind, err)
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
	return fill(make([]result, len(batch)), err)
}

// again sends a batch once more, where its failure may mean that the address is an old one and a
// new look-up finds another. Otherwise it returns the failure.
func (s *sender) again(
	ctx context.Context, to *Address, batch []entry, kind aws.Kind, failure error,
) (*Address, []result, aws.Kind, error) {
	// An address that no look-up verifies may be another account's, to which these credentials
	// no longer belong.
	old := kind == aws.Missing || kind == aws.Denied && !s.Verifies
	if !old {
		return to, make([]result, len(batch)), kind, failure
	}
	found, err := s.finder.Find(ctx, s.timeout/2, to)
	switch {
	case err != nil && s.Verifies:
		return to, make([]result, len(batch)), "", err
	case err != nil, !s.Verifies && found.Value == to.Value:
		return to, make([]result, len(batch)), kind, failure
	}
	results, kind, err := s.request(ctx, found, batch)
	if err != nil && kind == aws.Missing && s.Verifies {
		// Found and not found in one moment: it is being created or deleted. The text alone, so
		// that no caller takes it for a destination that does not exist.
		kind, err = "", outflow.Retryable(fmt.Errorf("the %s was found at a second look: %v", s.Errors.Destination,
			err))
	}
	return found, results, kind, err
}

func (s *sender) sendAlone(ctx context.Context, to *Address, single []entry) result {
	results, _, err := s.request(ctx, to, single)
	if err != nil {
		return result{Err: err}
	}
	return results[0]
}

// request makes one request and maps its answer to the batch by the entries' IDs, which are their
// places. err is the failure of the whole request. A panic counts as one for content; the service
// may have the messages by then, and gets them again with the same IDs.
func (s *sender) request(ctx context.Context, to *Address, batch []entry) (results []result, kind aws.Kind, err error) {
	results = make([]result, len(batch))
	doing := sendingTo(s.destination)
	defer panics.Catch(func(p *panics.Error) {
		kind, err = aws.Content, outflow.Permanent(panics.OfPublisher(doing, p))
	})
	if !publish.EnoughTime(ctx, minTime(s.timeout)) {
		return results, "", outflow.Retryable(fmt.Errorf("%s: %w", doing, outflow.ErrNotAttempted))
	}
	r := Request{
		Destination: s.destination, Address: to.Value,
		Retryer: &aws.Retryer{Service: s.Errors, MinTime: minTime(s.timeout)},
	}
	for i, e := range batch {
		r.Entries = append(r.Entries, Entry{ID: strconv.Itoa(i), Encoded: e.Encoded})
	}
	a := &aws.Attempt{Service: s.Errors, Doing: doing, Sends: true}
	if len(batch) == 1 {
		a.Size = batch[0].size
	}
	began := time.Now()
	outcomes, err := s.Send(a.Trace(ctx), r)
	s.record.Batch(s.Scheme, len(batch), time.Since(began), err)
	if err != nil {
		kind, f := a.Failure(err)
		f.CutShort = s.cutShort && kind == aws.Unanswered && errors.Is(ctx.Err(), context.DeadlineExceeded)
		return results, kind, f
	}
	s.read(doing, batch, outcomes, results)
	return results, "", nil
}

// read fills in the results that the service's answer has for the entries of a batch.
func (s *sender) read(doing string, batch []entry, outcomes []Outcome, results []result) {
	fill(results, outflow.Retryable(fmt.Errorf(
		"%s: the answer leaves this message out (it is sent again with the same message ID)", doing)))
	for _, o := range outcomes {
		i, err := strconv.Atoi(deref(o.ID))
		switch {
		case err != nil || i < 0 || i >= len(results):
		case o.Refused:
			results[i] = result{Err: s.Errors.EntryFailure(aws.Refusal{
				Doing: doing, Code: deref(o.Code), Said: deref(o.Said), SenderFault: o.SenderFault, Size: batch[i].size,
			})}
		default:
			results[i] = s.accepted(doing, batch[i], o)
		}
	}
}

// accepted checks what the service says it stored. A wrong checksum concerns this entry only.
func (s *sender) accepted(doing string, sent entry, o Outcome) result {
	if o.BodyMD5 != nil {
		sum := md5.Sum([]byte(sent.Body))
		if want := hex.EncodeToString(sum[:]); *o.BodyMD5 != want {
			return result{Err: outflow.Retryable(fmt.Errorf(
				"%s: %s stored a body with MD5 %s instead of %s (it is sent again with the same message ID)",
				doing, s.Errors.Name, text.Limit(*o.BodyMD5, 300), want))}
		}
	}
	return result{Value: deref(o.MessageID)}
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func fill(results []result, err error) []result {
	for i := range results {
		results[i] = result{Err: err}
	}
	return results
}
