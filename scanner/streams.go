package scanner

import (
	"context"
	"time"

	"go.temporal.io/sdk/temporal"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/workflows"
)

const (
	// leastStreamInterval to mostStreamInterval lie between two looks which destinations are worth a
	// stream. Such a look counts rows: it takes one part in streamShare of the time.
	leastStreamInterval = 100 * time.Millisecond
	mostStreamInterval  = time.Second
	streamShare         = 20
	streamTimeout       = 10 * time.Second
	// headStart is how long the starts of a claim's messages wait for that of a stream at most. A hundred
	// starts at once keep a small Temporal server busy for half a second.
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
	// NoteStream has starters leave a stream's messages to it for some seconds.
	NoteStream(ctx context.Context, n outbox.StreamState, first bool) error
	// FreeLostPages gives back the messages of streams that are gone for good.
	FreeLostPages(ctx context.Context) (freed int, err error)
}

// startStreams starts a stream for each destination of the claim that is worth it, in the background, and
// waits a moment for that.
func (s *Scanner) startStreams(ctx context.Context, claimed outbox.Claimed) {
	var full []string
	for _, d := range claimed.Full {
		if outbox.WhyNoStream(d) == "" {
			full = append(full, d)
		}
	}
	if raised, _ := s.temporal.state(); raised || len(full) == 0 || !s.streams.begin(s.streamInterval()) {
		return
	}
	began := time.Now()
	started := make(chan struct{})
	s.background.Go(func() {
		defer close(started)
		defer s.streams.done()
		ctx, cancel := context.WithTimeout(ctx, streamTimeout)
		defer cancel()
		wanted, err := s.store.WantStreams(ctx, full, s.opts.StreamAbove)
		s.streamLook.Store(int64(time.Since(began)))
		if err != nil && ctx.Err() == nil {
			s.opts.Logger.Warn("looking for backlogs", "error", err)
		}
		for _, d := range wanted {
			if time.Since(s.streaming[d]) < runningFor {
				continue
			}
			if err := s.startStream(ctx, d); err != nil && ctx.Err() == nil {
				s.opts.Logger.Warn("starting a stream", "destination", outflow.DisplayDestination(d), "error", err)
			}
		}
	})
	select {
	case <-started:
	case <-time.After(headStart):
	}
}

// streamInterval is the wait from the last look for streams to the next one.
func (s *Scanner) streamInterval() time.Duration {
	took := time.Duration(s.streamLook.Load())
	return min(max(streamShare*took, leastStreamInterval), mostStreamInterval)
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
	return s.store.NoteStream(ctx, outbox.StreamState{Destination: destination}, true)
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
			s.opts.Logger.Warn("a stream is gone; its messages are delivered without it", "messages", freed)
		}
	})
}
