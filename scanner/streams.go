package scanner

import (
	"context"
	"slices"
	"time"

	"go.temporal.io/sdk/temporal"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/workflows"
)

const (
	// A look which destinations are worth a stream counts rows: it takes one part in streamShare of the time.
	// The wait from one look to the next is leastStreamInterval at least, mostStreamInterval at most, and
	// failedStreamInterval at least where a look or a start has failed.
	streamShare          = 20
	leastStreamInterval  = 100 * time.Millisecond
	mostStreamInterval   = 30 * time.Second
	failedStreamInterval = time.Second
	streamTimeout        = 10 * time.Second
	// The starts of a claim's messages wait for a look for lookWait at most, and for the start of a stream
	// for headStart: a hundred starts at once keep a small Temporal server busy for half a second.
	lookWait  = 100 * time.Millisecond
	headStart = 500 * time.Millisecond
	// runningFor is how long a stream that runs already, and has not said so in the table, is left alone:
	// somebody has paused it, or no worker has taken it.
	runningFor   = time.Minute
	maxStreaming = 1000
	// pagesInterval lies between two looks for pages of streams that are gone for good.
	pagesInterval = 30 * time.Second
)

// Streams deliver the backlog of a destination by one run, instead of a run for each message.
type Streams interface {
	// WantStreams returns those of the destinations that have more due messages than their bound, and
	// no stream. above is the bound of those without one of their own; 0: they have none.
	WantStreams(ctx context.Context, destinations []string, above int) ([]string, error)
	// AnnounceStream has starters leave a destination's messages to its new stream for some seconds.
	AnnounceStream(ctx context.Context, destination string) error
	// FreeLostPages gives back the messages of streams that are gone for good.
	FreeLostPages(ctx context.Context) (freed int, err error)
}

// startStreams starts a stream for each destination of the claim that is worth it, in the background, and
// waits a moment for that.
func (s *Scanner) startStreams(ctx context.Context, claimed outbox.Claimed) {
	raised, _ := s.temporal.state()
	if raised || len(claimed.Full) == 0 || !s.streams.begin(time.Duration(s.streamPause.Load())) {
		return
	}
	full := slices.DeleteFunc(slices.Clone(claimed.Full), func(d string) bool {
		return outbox.WhyNoStream(d) != "" || time.Since(s.streaming[d]) < runningFor
	})
	if len(full) == 0 { // that was no look: the next claim may begin one
		s.streams.began = time.Time{}
		s.streams.done()
		return
	}
	looked, started := make(chan bool, 1), make(chan struct{})
	s.background.Go(func() {
		defer close(started)
		defer s.streams.done()
		s.lookForStreams(ctx, full, looked)
	})
	inTime := time.After(headStart)
	select {
	case worthIt := <-looked:
		if !worthIt {
			return
		}
	case <-time.After(lookWait):
		return
	}
	select {
	case <-started:
	case <-inTime:
	}
}

// lookForStreams starts a stream for each of the destinations that is worth it. It tells looked first
// whether there is any.
func (s *Scanner) lookForStreams(ctx context.Context, destinations []string, looked chan<- bool) {
	ctx, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	began := time.Now()
	wanted, err := s.store.WantStreams(ctx, destinations, s.opts.StreamAbove)
	pause := max(streamShare*time.Since(began), leastStreamInterval)
	looked <- len(wanted) > 0
	failed := func(doing string, err error, about ...any) {
		pause = max(pause, failedStreamInterval)
		if ctx.Err() == nil {
			s.opts.Logger.Warn(doing, append(about, "error", err)...)
		}
	}
	if err != nil {
		failed("looking for backlogs", err)
	}
	for _, d := range wanted {
		if err := s.startStream(ctx, d); err != nil {
			failed("starting a stream", err, "destination", outflow.DisplayDestination(d))
		}
	}
	s.streamPause.Store(int64(min(pause, mostStreamInterval)))
}

// startStream starts a destination's stream, and leaves the backlog to it. One that runs already goes on.
func (s *Scanner) startStream(ctx context.Context, destination string) error {
	database, err := s.store.DatabaseID(ctx)
	if err != nil {
		return err
	}
	in := workflows.StreamInput{Outbox: s.opts.Outbox, Database: database, Destination: destination}
	options := workflows.StreamOptions(s.opts.Outbox, s.opts.TaskQueue, destination)
	options.EnableEagerStart = true // where this program takes streams
	_, err = s.execute(ctx, options, workflows.WorkflowStream, in)
	if temporal.IsWorkflowExecutionAlreadyStartedError(err) {
		if s.streaming == nil || len(s.streaming) > maxStreaming {
			s.streaming = map[string]time.Time{}
		}
		s.streaming[destination] = time.Now()
		return nil
	}
	if err != nil {
		return err
	}
	s.opts.Logger.Info("a stream delivers the backlog", "destination", outflow.DisplayDestination(destination),
		"workflow_id", options.ID)
	return s.store.AnnounceStream(ctx, destination)
}

// freeLostPages gives back, in the background, the messages of streams that are gone for good.
func (s *Scanner) freeLostPages(ctx context.Context) {
	if !s.pages.begin(pagesInterval) {
		return
	}
	s.background.Go(func() {
		defer s.pages.done()
		ctx, cancel := context.WithTimeout(ctx, streamTimeout)
		defer cancel()
		freed, err := s.store.FreeLostPages(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			s.opts.Logger.Warn("looking for what streams have left behind", "error", err)
		case freed > 0:
			s.record.LeasesExpired(freed)
			s.opts.Logger.Warn("a stream is gone; its messages are delivered without it", "messages", freed)
		}
	})
}
