package main

import (
	"context"
	"errors"
	"fmt"
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

// demo runs the programs and signs people up.
type demo struct {
	bin, webUI string
	pool       *pgxpool.Pool
	family     *family
	every      time.Duration // signUpEvery, shorter in tests
	service    string        // the sign-up service's address
	before     before
	people     int // signed up so far

	recounts chan struct{} // has room for one: a process was started again
	counting sync.WaitGroup
}

// start brings everything up, the service last.
func (d *demo) start(ctx context.Context) error {
	if err := d.startOutflow(ctx); err != nil {
		return err
	}
	consuming, listening := newMark("consuming "), newMark("listening on ")
	err := errors.Join(
		d.family.start("consumer", consuming.see, d.program("signup"), "consume"),
		d.family.start("service", listening.see, d.program("signup"), "serve", "-listen", "127.0.0.1:0"),
	)
	if err == nil {
		err = await(ctx, consuming, listening)
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
	d.family.allReady(map[string][]string{"service": {"serve", "-listen", strings.TrimPrefix(address, "http://")}})
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
A sign-up writes the user and two messages in one transaction. Outflow delivers each message
to SQS through a workflow of its own, and the consumer receives it there.

    Temporal Web UI   %s
%s`, d.family, d.webUI, strings.Join(more, "")))
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
