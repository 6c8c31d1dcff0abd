package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/operator"
)

// fakeMessage is a table with one message, and the others of its group.
type fakeMessage struct {
	message operator.MessageStatus
	others  []operator.MessageStatus
	ends    time.Duration // when Wait sees it delivered; 0 means never
	again   bool          // and somebody retries it at once
	waitErr error
}

func (f *fakeMessage) Messages(_ context.Context, id uuid.UUID) ([]operator.MessageStatus, error) {
	if id != f.message.ID {
		return nil, fmt.Errorf("looking: %w", outflow.ErrNotFound)
	}
	return append([]operator.MessageStatus{f.message}, f.others...), nil
}

func (f *fakeMessage) WaitAll(ctx context.Context, _ uuid.UUID) ([]outflow.Outcome, error) {
	ended := make(<-chan time.Time)
	if f.ends > 0 {
		ended = time.After(f.ends)
	}
	switch {
	case f.waitErr != nil:
		return nil, f.waitErr
	case f.again:
		f.again = false
		return []outflow.Outcome{{State: outflow.Dead}}, nil
	}
	select {
	case <-ended:
		f.message = statusOf("delivered")
		return []outflow.Outcome{{State: outflow.Delivered}}, nil
	case <-ctx.Done():
		return []outflow.Outcome{{State: outflow.Pending}}, ctx.Err()
	}
}

func TestWaitFor(t *testing.T) {
	for name, c := range map[string]struct {
		f       fakeMessage
		timeout time.Duration
		code    int
		out     string
		took    time.Duration
	}{
		"delivered": {fakeMessage{message: statusOf("delivered")}, 0, 0, "delivered", 0},
		"delivered in time": {fakeMessage{message: statusOf("due"), ends: 3 * time.Second}, time.Minute, 0, "delivered",
			3 * time.Second},
		"started again": {fakeMessage{message: statusOf("due"), ends: 3 * time.Second, again: true}, time.Minute, 0,
			"delivered", 3 * time.Second},
		"dead":    {fakeMessage{message: statusOf("dead")}, time.Minute, 3, "dead", 0},
		"expired": {fakeMessage{message: statusOf("expired")}, time.Minute, 3, "expired", 0},
		"still pending": {fakeMessage{message: statusOf("retrying")}, 30 * time.Second, 4, "retrying",
			30 * time.Second},
		"one look": {fakeMessage{message: statusOf("leased")}, 0, 4, "leased", 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				began := time.Now()
				err := waitFor(t.Context(), c.f.Messages, c.f.WaitAll, someID, c.timeout, false, &out)
				assert.Equal(t, c.code, code(err), "%v", err)
				assert.Equal(t, someID.String()+"  "+c.out+"\n", out.String())
				assert.Equal(t, c.took, time.Since(began))
			})
		})
	}
	f := &fakeMessage{message: statusOf("waiting")}
	f.message.LastError = ptr("the host is\nnot allowed")
	err := waitFor(t.Context(), f.Messages, f.WaitAll, someID, 0, false, io.Discard)
	assert.EqualError(t, err, "message "+someID.String()+": still pending (waiting): the host is not allowed")
	f = &fakeMessage{message: statusOf("due")}
	err = waitFor(t.Context(), f.Messages, f.WaitAll, uuid.New(), time.Minute, false, io.Discard)
	assert.Equal(t, 3, code(err))
	f.waitErr = errors.New("permission denied")
	err = waitFor(t.Context(), f.Messages, f.WaitAll, someID, time.Minute, false, io.Discard)
	assert.Equal(t, 1, code(err))
	assert.ErrorContains(t, err, "permission denied")
	f.waitErr = nil
	stopped, stop := context.WithCancelCause(t.Context())
	stop(errors.New("interrupt"))
	err = waitFor(stopped, f.Messages, f.WaitAll, someID, time.Minute, false, io.Discard)
	assert.Equal(t, 1, code(err))
	assert.ErrorContains(t, err, "interrupt")
}

// Of a group the worst end counts, and each message has a line with its destination.
func TestWaitForAGroup(t *testing.T) {
	member := func(phase, destination string) operator.MessageStatus {
		m := statusOf(phase)
		m.GroupID, m.Destination = ptr(someID), destination
		return m
	}
	const receiver = "https://shop.example/in?token=hunter2"
	for name, c := range map[string]struct {
		first, second string
		code          int
		says          string
	}{
		"all delivered": {"delivered", "delivered", 0, ""},
		"one dead": {"delivered", "dead", 3,
			"1 of 2 messages are not delivered: message " + someID.String() + ": dead: no such queue"},
		"one pending beside a dead one": {"dead", "retrying", 4,
			"2 of 2 messages are not delivered: message " + someID.String() + ": still pending (retrying)"},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fakeMessage{message: member(c.first, "sqs://orders"),
				others: []operator.MessageStatus{member(c.second, receiver)}}
			var out bytes.Buffer
			err := waitFor(t.Context(), f.Messages, f.WaitAll, someID, 0, false, &out)
			assert.Equal(t, c.code, code(err), "%v", err)
			if c.says != "" {
				assert.EqualError(t, err, c.says)
			}
			assert.Equal(t, fmt.Sprintf("%s  %s  sqs://orders\n%s  %s  https://shop.example/in\n",
				someID, c.first, someID, c.second), out.String())
		})
	}
}
