package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// startTimeout bounds the time from the start of a process until it is ready.
	startTimeout = 30 * time.Second
	// signUpEvery is the time between two sign-ups, onceEvery that of -once.
	signUpEvery = 5 * time.Second
	onceEvery   = 150 * time.Millisecond
	// countEvery is the time between two counts of the table.
	countEvery = 100 * time.Millisecond
)

// welcomeWorkflow is the destination of the messages that start a workflow.
const welcomeWorkflow = "temporal://signup/Welcome"

// demo runs the programs and signs people up.
type demo struct {
	bin, webUI, namespace string

	pool    *pgxpool.Pool
	family  *family
	every   time.Duration // signUpEvery, shorter in tests
	service string        // the sign-up service's address
	before  before
	people  int // signed up so far

	recounts chan struct{} // has room for one: a process was started again
	counting sync.WaitGroup
}

// start brings everything up, the service last.
func (d *demo) start(ctx context.Context) error {
	// Nothing may be started that no operator has listed.
	d.family.env = append(d.family.env, "OUTFLOW_TEMPORAL_TARGETS="+url.PathEscape(d.namespace)+"/signup/Welcome")
	if err := d.startOutflow(ctx); err != nil {
		return err
	}
	consuming, welcoming, listening := newMark("consuming "), newMark("running workflows "), newMark("listening on ")
	err := errors.Join(
		d.family.start("consumer", consuming.see, d.program("signup"), "consume"),
		d.family.start("welcome", welcoming.see, d.program("signup"), "welcome"),
		d.family.start("service", listening.see, d.program("signup"), "serve", "-listen", "127.0.0.1:0",
			"-welcome", welcomeWorkflow),
	)
	if err == nil {
		err = await(ctx, consuming, welcoming, listening)
	}
	if err != nil {
		return err
	}
	address := listening.rest()
	d.service = address + "/users"
	if d.before, err = lookBefore(ctx, d.pool); err != nil {
		return err
	}
	d.recounts = make(chan struct{}, 1)
	d.family.restarted = func() {
		select {
		case d.recounts <- struct{}{}:
		default: // the count that is due comes after this restart, too
		}
	}
	d.counting.Go(func() { d.recount(ctx) })
	d.family.allReady(map[string][]string{"service": {"serve", "-listen", strings.TrimPrefix(address, "http://"),
		"-welcome", welcomeWorkflow}})
	return nil
}

// startOutflow brings up what delivers messages.
func (d *demo) startOutflow(ctx context.Context) error {
	if err := d.family.run(ctx, "migrate", d.program("outflow"), "migrate", "up"); err != nil {
		return err
	}
	scanning, working := newMark("msg=scanning"), newMark("msg=working")
	err := errors.Join(
		d.family.start("starter", scanning.see, d.program("outflow-starter")),
		d.family.start("worker", working.see, d.program("outflow-worker")),
	)
	if err != nil {
		return err
	}
	return await(ctx, scanning, working)
}

// await waits until the programs are ready.
func await(ctx context.Context, marks ...*mark) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout,
		fmt.Errorf("the programs were not ready within %s", startTimeout))
	defer cancel()
	for _, m := range marks {
		if err := m.wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) program(name string) string { return filepath.Join(d.bin, name) }

func (d *demo) introduce(more ...string) {
	d.family.print("", fmt.Sprintf(`
Running: %s.
A sign-up writes the user and three messages in one transaction. Outflow delivers two to SQS, where
the consumer receives them. The third starts the workflow Welcome, which is the application's own.

    Temporal Web UI   %s
    Its workflows     %[2]s/namespaces/%s/workflows?query=WorkflowType%%3D%%22Welcome%%22
%s`, d.family, d.webUI, url.PathEscape(d.namespace), strings.Join(more, "")))
}

// once signs people up and waits for all of their messages.
func (d *demo) once(ctx context.Context, people int, limit time.Duration) error {
	if err := d.start(ctx); err != nil {
		return err
	}
	d.introduce()
	over := time.After(limit)
	for signedUp := 0; signedUp < people; {
		err := d.signUp(ctx)
		if err == nil {
			signedUp++
		} else {
			d.family.print("demo", err.Error())
		}
		select {
		case <-time.After(onceEvery):
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-over:
			return fmt.Errorf("after %s, %d of %d people are signed up: %w", limit, signedUp, people, err)
		}
	}
	for {
		t, err := d.tally(ctx)
		if err != nil {
			return err
		}
		// There are more where the answer of a sign-up was lost, and it was repeated.
		if len(t.Missing) == 0 && t.Enqueued >= people*messagesEach {
			return nil
		}
		select {
		case <-time.After(countEvery):
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-over:
			return fmt.Errorf("after %s, %d of %d messages are missing:\n%s", limit, len(t.Missing), t.Enqueued,
				t.report())
		}
	}
}

// stay signs a person up each d.every, until ctx ends.
func (d *demo) stay(ctx context.Context) error {
	if err := d.start(ctx); err != nil {
		return err
	}
	d.introduce(
		fmt.Sprintf("    Sign up yourself  curl -d '{\"name\": \"You\", \"email\": \"you@example.com\"}' '%s?wait=1'\n",
			d.service),
		"    Break it          kill -9 one of the pids: it is started again, and nothing is lost\n",
		fmt.Sprintf("    Stop              Ctrl-C (until then, a person signs up every %s)\n", d.every),
	)
	every := time.NewTicker(d.every)
	defer every.Stop()
	for {
		if err := d.signUp(ctx); err != nil && ctx.Err() == nil {
			d.family.print("demo", err.Error())
		}
		select {
		case <-every.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// finish stops every process and prints the counts. A process's early end is the cause of
// other errors, and replaces them.
func (d *demo) finish(ctx context.Context, err error) error {
	var early earlyEnd
	switch {
	case errors.As(context.Cause(ctx), &early):
		err = early
	case err != nil && ctx.Err() != nil:
		err = errors.New("interrupted")
	}
	err = errors.Join(err, d.family.stop())
	if d.service == "" {
		return err // no message to count
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startTimeout)
	defer cancel()
	t, tallyErr := d.tally(ctx)
	if tallyErr == nil {
		d.family.print("", t.String())
	}
	return errors.Join(err, tallyErr)
}
