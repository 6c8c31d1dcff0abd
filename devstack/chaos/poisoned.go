package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/devstack/faults"
	"github.com/outflowhq/outflow/publish/awssqs"
)

const (
	// poisonShare: one message in so many of the load's is poison.
	poisonShare = 10
	// poisonLimit is the queues' MaximumMessageSize, in bytes.
	poisonLimit = "2048"

	// What can't be delivered, and what looks like it and can.
	fatal    = "poison"
	harmless = "harmless"

	// bell is a header's value that no attribute may have.
	bell = "bell \a"
)

// unsendable is a payload with what SQS takes in no message's body.
func unsendable(n int) []byte {
	return fmt.Appendf(nil, "%d: bell \a, null \x00, and no UTF-8 \xff", n)
}

// poisonAmong is the nth poisonous message: of each kind in turn.
func poisonAmong(n int) outflow.Message {
	queue := "sqs://" + queues[n%len(queues)]
	m := outflow.Message{Destination: queue, Type: fatal, ContentType: "text/plain",
		Payload: fmt.Appendf(nil, "poison %d", n)}
	switch n % 4 {
	case 0:
		m.Destination = "sqs://nowhere"
	case 1:
		m.Payload = bytes.Repeat([]byte("x"), 3000)
	case 2:
		m.Type, m.Payload = harmless, unsendable(n)
	case 3:
		m.Type, m.Headers = harmless, map[string]string{"note": bell}
	}
	return m
}

// holdPoison prints how the poison ended, and errs where one was delivered that
// can't be, one that can be was not, or one changed on its way.
func (h *hazard) holdPoison(ctx context.Context, load *faults.Load) error {
	committed, rows, err := load.Rows(ctx)
	if err != nil {
		return err
	}
	arrived := h.arrivedPoison()
	var dead, delivered, repeated int
	var wrong []error
	for _, id := range committed {
		row, copies := rows[id], arrived[id]
		switch {
		case row.Type == fatal && row.State == string(outflow.Dead) && row.LastError != "" && copies.n == 0:
			dead++
		case row.Type == harmless && row.State == string(outflow.Delivered) && copies.n > 0 && copies.intact:
			delivered++
			repeated += copies.n - 1
		default:
			wrong = append(wrong, fmt.Errorf("poison %s: a %s one to %s is %q, arrived %d times, last error %q",
				id, row.Type, row.Destination, row.State, copies.n, row.LastError))
		}
	}
	h.result("poison: %d enqueued, %d dead with their reason, %d delivered that only look like it (%d duplicates), %d wrong",
		len(committed), dead, delivered, repeated, len(wrong))
	return errors.Join(wrong[:min(len(wrong), 10)]...)
}

type arrival struct {
	n      int
	intact bool // every copy so far has what was enqueued
}

// arrivedPoison reads what stands in the queues of the poison that can be sent.
func (h *hazard) arrivedPoison() map[uuid.UUID]arrival {
	found := map[uuid.UUID]arrival{}
	for _, queue := range h.queues {
		for _, e := range h.Queues.Messages("", queue) {
			id, _ := uuid.Parse(e.MessageAttributes[awssqs.AttributeMessageID].StringValue)
			a := found[id]
			body := []byte(e.MessageBody)
			if e.MessageAttributes[awssqs.AttributeEncoding].StringValue == awssqs.EncodingBase64 {
				body, _ = base64.StdEncoding.DecodeString(e.MessageBody)
			}
			var n int
			_, err := fmt.Sscanf(string(body), "%d:", &n)
			sound := err == nil && bytes.Equal(body, unsendable(n)) ||
				bytes.HasPrefix(body, []byte("poison ")) &&
					e.MessageAttributes[awssqs.AttributeHeaders].StringValue == `{"note":"bell \u0007"}`
			found[id] = arrival{a.n + 1, sound && (a.n == 0 || a.intact)}
		}
	}
	return found
}
