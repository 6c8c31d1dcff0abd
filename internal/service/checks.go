package service

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.temporal.io/sdk/client"
)

const (
	// checkTimeout bounds each check. Checks run at once, so it bounds the answer too.
	checkTimeout = 2 * time.Second
	// checkInterval lies between two rounds of checks: probes, however many, don't take the
	// deliveries' connections.
	checkInterval = time.Second
	// reasonLogInterval lies between two log lines about a part that stays unready.
	reasonLogInterval = time.Minute
)

// The parts that a program needs to be ready, as /readyz and the log name them.
const (
	partDatabase = "database"
	partTemporal = "temporal"
)

// check checks one part that a program needs.
type check struct {
	part string
	run  func(context.Context) error
}

// checks are what a starter and a worker need to do their work.
func (p *parts) checks() []check {
	return []check{
		{partDatabase, p.store.Ping},
		{partTemporal, func(ctx context.Context) error {
			_, err := p.client.CheckHealth(ctx, &client.CheckHealthRequest{})
			return err
		}},
	}
}

// failure is a check that did not pass.
type failure struct {
	part string
	err  error
}

// runChecks runs all checks at once and returns the failed ones, in their order.
func runChecks(ctx context.Context, checks []check) []failure {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	errs := make([]error, len(checks))
	var running sync.WaitGroup
	for i, c := range checks {
		running.Go(func() { errs[i] = c.run(ctx) })
	}
	running.Wait()
	var failed []failure
	for i, err := range errs {
		if err != nil {
			failed = append(failed, failure{checks[i].part, err})
		}
	}
	return failed
}

// notReady returns what /readyz may say. Errors name hosts, users and databases, and go to the log.
func notReady(failed []failure) error {
	var errs []error
	for _, f := range failed {
		errs = append(errs, errors.New(f.part+": not ready"))
	}
	return errors.Join(errs...)
}

// loggedReason is what the log last said about a part that is not ready.
type loggedReason struct {
	text string
	at   time.Time
}

// logReasons logs why parts are not ready: when that changes, and every reasonLogInterval. h.mu is
// held.
func (h *health) logReasons(failed []failure) {
	reasons := map[string]loggedReason{}
	for _, f := range failed {
		reason, text := h.reasons[f.part], f.err.Error()
		if reason.text != text || time.Since(reason.at) >= reasonLogInterval {
			h.log.Warn("not ready", "part", f.part, "error", text)
			reason = loggedReason{text, time.Now()}
		}
		reasons[f.part] = reason
	}
	for part := range h.reasons {
		if _, still := reasons[part]; !still {
			h.log.Info("ready again", "part", part)
		}
	}
	h.reasons = reasons
}
