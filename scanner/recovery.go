package scanner

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.temporal.io/api/serviceerror"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/workflows"
)

// Breakers are the circuit breakers in the table as the scanner uses them. TakeProbes and
// TakeRecovered hold a short lease on what they return, so that one of many scanners works on it.
type Breakers interface {
	TakeProbes(ctx context.Context) ([]outbox.Probe, error)
	// TakeFound does the same for destinations that did not exist. It looks them up with look, and
	// leaves those out that still do not exist. A nil look looks nothing up.
	TakeFound(ctx context.Context, look func(ctx context.Context, destination string) error) ([]outbox.Probe, error)
	TakeRecovered(ctx context.Context) ([]outbox.Recovered, error)
	ForgetRecovered(ctx context.Context, r outbox.Recovered) error
	// Retrying returns the next messages off the fast path, each once. It returns none when the
	// destination has failed again. It renews the lease.
	Retrying(ctx context.Context, r outbox.Recovered, limit int) ([]outbox.Leased, error)
	// Release makes a message claimable whose run is lost, if the message has that lease still.
	Release(ctx context.Context, m outbox.Leased) error
}

const (
	// recoveryInterval lies between two rounds of recovery.
	recoveryInterval = time.Second
	// recoveryTimeout bounds one round. The next round does the rest.
	recoveryTimeout = 15 * time.Second
	// signalTimeout bounds one signal with the SDK's own retries: a run that does not answer
	// leaves time for the others.
	signalTimeout = 3 * time.Second
	// A signalled run costs Temporal some workflow tasks, and its destination a publish. So each
	// page is twice the one before, from firstSignals to maxSignals, and signalPause lies between
	// them: a destination that accepts only a few messages fails again within the first pages.
	firstSignals = 10
	maxSignals   = 200
	signalPause  = 300 * time.Millisecond
	// signalWorkers bounds the signals under way.
	signalWorkers = 8
	// retrySignalsFor is how long a signal that failed is retried, and maxUnsignalled bounds
	// their number. Such runs retry by themselves within minutes.
	retrySignalsFor = 2 * time.Minute
	maxUnsignalled  = 10_000
)

// recovery has the runs whose signal failed. Only the goroutine that runs a round touches the list.
type recovery struct {
	periodic
	unsignalled []unsignalled
	pending     atomic.Bool // the list is not empty
}

// unsignalled is a run whose signal failed, and since when it should have had one.
type unsignalled struct {
	outbox.Leased
	since time.Time
}

// hasUnsignalled is safe for concurrent use.
func (r *recovery) hasUnsignalled() bool { return r.pending.Load() }

func (r *recovery) set(list []unsignalled) {
	r.unsignalled = list
	r.pending.Store(len(list) > 0)
}

// recover probes destinations whose breaker is open, and signals the retrying runs of recovered
// destinations, in the background.
func (s *Scanner) recover(ctx context.Context) {
	if !s.recovery.begin(recoveryInterval) {
		return
	}
	s.background.Go(func() {
		defer s.recovery.done()
		inTime, cancel := context.WithTimeout(ctx, recoveryTimeout)
		defer cancel()
		err := errors.Join(s.probe(inTime, s.store.TakeProbes), s.signalRecovered(inTime))
		if err == nil {
			s.retrySignals(inTime)
		}
		if err != nil && ctx.Err() == nil {
			s.opts.Logger.Warn("probing destinations and signalling runs", "error", err)
		}
	})
}

// look looks missing destinations up, in the background: a look-up may be slow, and nothing else waits
// for it.
func (s *Scanner) look(ctx context.Context) {
	if !s.looks.begin(recoveryInterval) {
		return
	}
	s.background.Go(func() {
		defer s.looks.done()
		inTime, cancel := context.WithTimeout(ctx, recoveryTimeout)
		defer cancel()
		err := s.probe(inTime, func(ctx context.Context) ([]outbox.Probe, error) {
			return s.store.TakeFound(ctx, s.opts.Check)
		})
		if err != nil && ctx.Err() == nil {
			s.opts.Logger.Warn("looking for missing destinations", "error", err)
		}
	})
}

// probe lets the chosen message of each open breaker try: it signals the run of a message off the
// fast path. The next claim takes any other message.
func (s *Scanner) probe(ctx context.Context, take func(context.Context) ([]outbox.Probe, error)) error {
	probes, err := take(ctx)
	for _, p := range probes {
		if p.Running {
			err = errors.Join(err, s.signal(ctx, p.Leased))
		}
	}
	if len(probes) > 0 {
		s.Wake()
	}
	return err
}

// signalRecovered signals the runs of every recovered destination, and of those that were found not
// to exist. A destination whose runs could not all be signalled does not stop it: that one would be
// the first again in the next round.
func (s *Scanner) signalRecovered(ctx context.Context) error {
	recovered, err := s.store.TakeRecovered(ctx)
	errs := []error{err}
	for _, r := range recovered {
		signalled, err := s.signalRetrying(ctx, r)
		if err == nil {
			err = s.store.ForgetRecovered(ctx, r)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		what := "a destination has recovered: its retrying runs were signalled"
		if r.Missing {
			if signalled == 0 { // most have no such runs
				continue
			}
			what = "a destination does not exist: its retrying runs were signalled, and their messages wait as rows"
		}
		s.opts.Logger.Info(what, "destination", outflow.DisplayDestination(r.Destination), "runs", signalled)
	}
	return errors.Join(errs...)
}

// signalRetrying signals the retrying runs of a destination, page by page, while the destination
// works. A run whose signal fails is retried later and stops no other run. Where all signals of a
// page fail, Temporal is away, and a later round goes on.
func (s *Scanner) signalRetrying(ctx context.Context, r outbox.Recovered) (signalled int, err error) {
	for size := firstSignals; ; size = min(2*size, maxSignals) {
		page, err := s.store.Retrying(ctx, r, size)
		if err != nil {
			return signalled, err
		}
		failed, err := s.signalAll(ctx, page, time.Now())
		signalled += len(page) - failed
		none := failed == len(page) && (signalled == 0 || len(page) >= firstSignals)
		if err != nil && (ctx.Err() != nil || none && !isRefusal(err)) {
			return signalled, err
		}
		if len(page) < size {
			return signalled, nil
		}
		sleep(ctx, signalPause)
	}
}

// retrySignals signals the runs whose signal failed before: in the rush of a recovery Temporal may
// have no time for some. No other scanner has them. Where it fails again they stay on the list.
func (s *Scanner) retrySignals(ctx context.Context) {
	rest := s.recovery.unsignalled
	s.recovery.set(nil)
	for len(rest) > 0 {
		some := rest[:min(maxSignals, len(rest))]
		rest = rest[len(some):]
		page := make([]outbox.Leased, len(some))
		for i, u := range some {
			page[i] = u.Leased
		}
		failed, _ := s.signalAll(ctx, page, some[0].since)
		if failed == len(page) { // Temporal may be away
			break
		}
	}
	s.recovery.set(append(s.recovery.unsignalled, rest...))
}

// signalAll signals many runs, and returns how many signals failed. Failed ones are retried until
// retrySignalsFor after since. A refusal is final.
func (s *Scanner) signalAll(ctx context.Context, page []outbox.Leased, since time.Time) (failed int, err error) {
	var signalling sync.WaitGroup
	results := make([]error, len(page))
	for first := range signalWorkers {
		signalling.Go(func() {
			for i := first; i < len(page); i += signalWorkers {
				results[i] = s.signal(ctx, page[i])
			}
		})
	}
	signalling.Wait()
	givenUp, retry := 0, s.recovery.unsignalled
	for i, err := range results {
		switch {
		case err == nil:
			continue
		case isRefusal(err) || time.Since(since) > retrySignalsFor || len(retry) >= maxUnsignalled:
			givenUp++
		default:
			retry = append(retry, unsignalled{page[i], since})
		}
		failed++
	}
	s.recovery.set(retry)
	err = errors.Join(results...)
	if givenUp > 0 {
		s.opts.Logger.Warn("some runs of a recovered destination could not be signalled; they retry by themselves",
			"runs", givenUp, "error", err)
	}
	return failed, err
}

// isRefusal reports whether Temporal answered that a run accepts no signal, such as a run that has
// had as many as a run may.
func isRefusal(err error) bool {
	var invalid *serviceerror.InvalidArgument
	return errors.As(err, &invalid)
}

// signal makes a run try now. A run that Temporal does not know was lost with its namespace, or was
// terminated: its message is freed for a new run.
func (s *Scanner) signal(ctx context.Context, m outbox.Leased) error {
	inTime, cancel := context.WithTimeout(ctx, signalTimeout)
	defer cancel()
	err := s.client.SignalWorkflow(inTime, workflows.DeliverID(s.opts.Outbox, m.ID), "", workflows.SignalTryNow, nil)
	var gone *serviceerror.NotFound
	if errors.As(err, &gone) {
		return s.store.Release(ctx, m)
	}
	return err
}
