package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/outflowhq/outflow/devstack/faults"
	"github.com/outflowhq/outflow/devstack/ports"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

const (
	longestSignUp = 3 // minutes
	signUpShare   = 5 // of -rate: each sign-up is two messages, and a consumer takes its time
	// consumedWithin bounds the wait for the consumers: a poll that fell silent is
	// given up after half a minute, and a handling, too.
	consumedWithin = 2 * time.Minute
	readyWithin    = 30 * time.Second
)

// signUpKinds are what is broken beside the kinds of random: the service, its
// consumers, and the way between a consumer and its queue.
var signUpKinds = []kind{
	{"kill-service", "service", 0, 0, kill(services), nil, nothingTwice},
	{"kill-consumer", "consumer", 0, 0, kill(consumers), nil, nothingTwice},
	{"kill-between-effect-and-delete", "sqs", 0, 0, killBeforeDelete, nil, nothingTwice},
	// Longer than the queue hides a message: another consumer gets it meanwhile.
	atDelete("slow-deletes", fakesqs.Fault{Delay: 3 * second, Times: 5}),
	// More often than the consumer's client tries.
	atDelete("lost-deletes", fakesqs.Fault{CutBefore: true, Times: 12}),
}

func services(h *hazard) []*faults.Member  { return h.services }
func consumers(h *hazard) []*faults.Member { return h.consumers }

// killBeforeDelete kills a consumer that has written its e-mail and has not taken
// the message off the queue.
func killBeforeDelete(h *hazard, _ strike) error {
	defer h.Queues.Heal(faults.WelcomeQueue)
	select {
	case name := <-h.HoldDelete(faults.WelcomeQueue):
		for _, m := range h.consumers {
			if m.Name == name {
				return m.Kill()
			}
		}
		return fmt.Errorf("a stranger deletes: %q", name)
	case <-time.After(10 * time.Second): // nobody consumes just now
		h.say("kill-between-effect-and-delete: nothing was deleted for ten seconds")
		return nil
	}
}

func atDelete(name string, fault fakesqs.Fault) kind {
	fault.Action, fault.Queue = "DeleteMessage", faults.WelcomeQueue
	return kind{name, "sqs", 5 * second, 12 * second,
		func(h *hazard, _ strike) error { h.Queues.Inject(fault); return nil },
		func(_ context.Context, h *hazard, _ strike) error { h.Queues.Heal(faults.WelcomeQueue); return nil }, nothingTwice}
}

// signup runs the example's service and consumers under random strikes at
// everything, and counts the welcome e-mails.
func signup(ctx context.Context, c *chaos) error {
	struck := slices.Concat(signUpKinds, kinds)
	f, err := c.deploy(ctx, "signup")
	if err != nil {
		return err
	}
	h := newHazard(c, f, struck, faults.SignUpQueues)
	length := time.Duration(min(c.minutes, longestSignUp) * float64(time.Minute))
	err = h.signUps(ctx, length, plan(c.seed, length, struck))
	return errors.Join(err, f.close(c.stack.Logs()))
}

func (h *hazard) signUps(ctx context.Context, length time.Duration, strikes []strike) error {
	h.AnswersIn(answers)
	h.Queues.AutoCreate = false
	if err := h.PrepareSignUps(ctx); err != nil {
		return err
	}
	url, err := h.deployExample(ctx)
	if err != nil {
		return err
	}
	load := h.StartSignUps(max(h.rate/signUpShare, 1), url)
	err = h.strikeAll(ctx, length, strikes)
	// At least this bound: it shows that deduplication had something to do.
	err = errors.Join(err, killBeforeDelete(h, strike{}))
	load.Stop()
	if err != nil {
		return err
	}
	h.say("the last fault is healed: %d confirmed, %d in flight", load.Confirmed(), h.count(ctx))
	draining, cancel := context.WithTimeout(ctx, drainWithin)
	defer cancel()
	drained, drainErr := h.Drain(draining)
	consuming, cancel := context.WithTimeout(ctx, consumedWithin)
	defer cancel()
	consumeErr := h.AwaitConsumed(consuming)
	emails, err := load.Emails(ctx)
	if err != nil {
		return errors.Join(drainErr, consumeErr, err)
	}
	h.result("%s; time to drain %s", emails, drained.Round(10*time.Millisecond))
	_, err = h.judge(ctx, h.fleet, h.causes)
	errs := []error{drainErr, consumeErr, err}
	if wrong := emails.Wrong(); wrong != "" {
		errs = append(errs, errors.New(wrong))
	}
	return errors.Join(errs...)
}

// deployExample starts the service and two consumers, and returns the service's
// address when it answers.
func (h *hazard) deployExample(ctx context.Context) (url string, err error) {
	port, err := ports.Free()
	if err != nil {
		return "", fmt.Errorf("choosing the service's port: %w", err)
	}
	for _, m := range []struct {
		name string
		args []string
		into *[]*faults.Member
	}{
		{"service-0", []string{"serve", "-listen", ports.Address(port)}, &h.services},
		{"consumer-0", []string{"consume"}, &h.consumers},
		{"consumer-1", []string{"consume"}, &h.consumers},
	} {
		member, err := faults.SuperviseAs(m.name, h.programs, faults.SignUp, h.Env(), m.args...)
		if err != nil {
			return "", err
		}
		*m.into = append(*m.into, member)
	}
	url = "http://" + ports.Address(port)
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	for {
		answer, err := http.Get(url)
		if err == nil {
			return url, answer.Body.Close()
		}
		if !pause(ctx, 50*time.Millisecond) {
			return "", fmt.Errorf("waiting for the sign-up service: %w", err)
		}
	}
}
