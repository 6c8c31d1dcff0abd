package scanner

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.temporal.io/api/serviceerror"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/workflows"
)

// Destinations are the breakers of the table as the scanner tends them;
// outboxdb.Store is one. What it takes it holds a short lease on, so that of many
// scanners one does it.
type Destinations interface {
	TakeProbes(ctx context.Context) ([]outbox.Probe, error)
	TakeRecovered(ctx context.Context) ([]outbox.Recovered, error)
	ForgetRecovered(ctx context.Context, r outbox.Recovered) error
	// Retrying returns the next ones, each once, and none once the destination has
	// failed again. It renews the lease.
	Retrying(ctx context.Context, r outbox.Recovered, limit int) ([]outbox.Leased, error)
	// Free makes a message claimable whose run is lost, if it has that lease still.
	Free(ctx context.Context, m outbox.Leased) error
}

const (
	// tendTimeout bounds one tending; what it leaves, the next one does.
	tendTimeout = 15 * time.Second
	// tellTimeout bounds one signal with the SDK's own retries: a run that does not
	// answer leaves time for the others.
	tellTimeout = 3 * time.Second
	// tellPage and tellAtOnce bound the signals to retrying runs: a run that is told
	// costs Temporal some workflow tasks. A destination that takes only a few at a
	// time shows it after the first pages: each is twice the one before, from
	// tellFirst, and leaves tellPause for a failure to be noted.
	tellFirst  = 10
	tellPage   = 200
	tellAtOnce = 8
	tellPause  = 300 * time.Millisecond
	// oweFor is how long a run is tried to be told, and oweMost how many are: they
	// try by themselves within minutes.
	oweFor  = 2 * time.Minute
	oweMost = 10_000
)

// tend has troubled destinations probed, and the runs of recovered ones try at
// once, in the background and by one goroutine at a time.
func (s *Scanner) tend(ctx context.Context) {
	if time.Now().Before(s.nextTend) || !s.tending.CompareAndSwap(false, true) {
		return
	}
	s.nextTend = time.Now().Add(tendAtMost)
	s.aside.Go(func() {
		defer s.tending.Store(false)
		inTime, cancel := context.WithTimeout(ctx, tendTimeout)
		defer cancel()
		err := errors.Join(s.probe(inTime), s.tellRecovered(inTime))
		if err == nil {
			s.tellOwed(inTime)
		}
		if err != nil && ctx.Err() == nil {
			s.opts.Logger.Warn("tending destinations", "error", err)
		}
	})
}

// probe has each chosen message tried: the run of one that is off the fast path
// is told, any other is claimed as usual.
func (s *Scanner) probe(ctx context.Context) error {
	probes, err := s.store.TakeProbes(ctx)
	for _, p := range probes {
		if p.Running {
			err = errors.Join(err, s.tell(ctx, p.Leased))
		}
	}
	if len(probes) > 0 {
		s.Wake()
	}
	return err
}

// tellRecovered goes on after a destination that could not be told in full: its
// lease ends together with the others', and it would be the first again.
func (s *Scanner) tellRecovered(ctx context.Context) error {
	recovered, err := s.store.TakeRecovered(ctx)
	errs := []error{err}
	for _, r := range recovered {
		told, err := s.tellAll(ctx, r)
		if err == nil {
			err = s.store.ForgetRecovered(ctx, r)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s.opts.Logger.Info("a destination works again", "destination", outflow.DisplayDestination(r.Destination), "retrying", told)
	}
	return errors.Join(errs...)
}

// tellAll has the retrying runs of a destination try now, all of them if it goes on
// to work. One that can't be told holds up no other: it is owed. Where none can be
// told it is Temporal that is away, and the telling goes on later.
func (s *Scanner) tellAll(ctx context.Context, r outbox.Recovered) (told int, err error) {
	for size := tellFirst; ; size = min(2*size, tellPage) {
		page, err := s.store.Retrying(ctx, r, size)
		if err != nil {
			return told, err
		}
		failed, err := s.tellEach(ctx, page, time.Now())
		told += len(page) - failed
		none := failed == len(page) && (told == 0 || len(page) >= tellFirst)
		if err != nil && (ctx.Err() != nil || none && !isRefusal(err)) {
			return told, err
		}
		if len(page) < size {
			return told, nil
		}
		sleep(ctx, tellPause)
	}
}

// owed is a run that is to be told, and could not be for some time.
type owed struct {
	outbox.Leased
	since time.Time
}

// tellOwed tells those that could not be told before: in the rush of a recovery
// Temporal may have no time for some. Nobody else has them. What fails stays owed.
func (s *Scanner) tellOwed(ctx context.Context) {
	again := s.owed
	s.owed = nil
	for len(again) > 0 {
		some := again[:min(tellPage, len(again))]
		again = again[len(some):]
		var page []outbox.Leased
		for _, o := range some {
			page = append(page, o.Leased)
		}
		failed, _ := s.tellEach(ctx, page, some[0].since)
		if failed == len(page) { // Temporal may be away
			break
		}
	}
	s.owed = append(s.owed, again...)
	s.owes.Store(len(s.owed) > 0)
}

// tellEach tells many runs, and returns how many could not be told. They are owed,
// for oweFor from the time that they were to be told; a refusal is final.
func (s *Scanner) tellEach(ctx context.Context, page []outbox.Leased, since time.Time) (failed int, err error) {
	var telling sync.WaitGroup
	results := make([]error, len(page))
	for i := range tellAtOnce {
		telling.Go(func() {
			for at := i; at < len(page); at += tellAtOnce {
				results[at] = s.tell(ctx, page[at])
			}
		})
	}
	telling.Wait()
	left := 0
	for i, err := range results {
		switch {
		case err == nil:
			continue
		case isRefusal(err) || time.Since(since) > oweFor || len(s.owed) >= oweMost:
			left++
		default:
			s.owed = append(s.owed, owed{page[i], since})
		}
		failed++
	}
	s.owes.Store(len(s.owed) > 0)
	err = errors.Join(results...)
	if left > 0 {
		s.opts.Logger.Warn("some runs could not be told that their destination works again; they try by themselves", "runs", left, "error", err)
	}
	return failed, err
}

// isRefusal reports whether Temporal answered that a run takes no signal, such as one
// that has had as many as a run may.
func isRefusal(err error) bool {
	var invalid *serviceerror.InvalidArgument
	return errors.As(err, &invalid)
}

// tell has a run try now. One that Temporal does not know is lost with its
// namespace, or was ended by somebody: its message is freed for a new one.
func (s *Scanner) tell(ctx context.Context, m outbox.Leased) error {
	inTime, cancel := context.WithTimeout(ctx, tellTimeout)
	defer cancel()
	err := s.client.SignalWorkflow(inTime, workflows.DeliverID(s.opts.Outbox, m.ID), "", workflows.SignalTryNow, nil)
	var gone *serviceerror.NotFound
	if errors.As(err, &gone) {
		return s.store.Free(ctx, m)
	}
	return err
}
