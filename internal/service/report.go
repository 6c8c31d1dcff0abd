package service

import (
	"errors"
	"fmt"
	"io"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outboxdb"
)

// total sums counts over all destinations.
func total(counts []outboxdb.PendingCounts) outboxdb.PendingCounts {
	var t outboxdb.PendingCounts
	for _, c := range counts {
		t.Due += c.Due
		t.Delayed += c.Delayed
		t.Leased += c.Leased
		t.Retrying += c.Retrying
		t.Waiting += c.Waiting
		t.Followers += c.Followers
	}
	return t
}

// report writes what a single pass has left, at its end or where it was stopped.
func report(
	out io.Writer, counts []outboxdb.PendingCounts, callbacks outboxdb.CallbackCounts, stopped bool,
) error {
	t := total(counts)
	fmt.Fprintf(out, "once: left %d in backoff, %d delayed, %d not started\n",
		t.Retrying+t.Waiting, t.Delayed, t.Due+t.Leased)
	for _, c := range counts {
		if n := c.Retrying + c.Waiting; n > 0 {
			fmt.Fprintf(out, "  %s: %d in backoff; last error: %s\n",
				outflow.DisplayDestination(c.Destination), n, c.LastError)
		}
	}
	if t.Followers > 0 {
		fmt.Fprintf(out, "once: left %d that wait for the message before them of their ordering key\n", t.Followers)
	}
	if callbacks.Backoff+callbacks.Untried > 0 {
		fmt.Fprintf(out, "once: left %d callbacks in backoff, %d not tried\n", callbacks.Backoff, callbacks.Untried)
	}
	if callbacks.Backoff > 0 {
		fmt.Fprintf(out, "  last error of a callback: %s\n", callbacks.LastError)
	}
	until := "within the time limit"
	if stopped {
		until = "before the pass was stopped"
	}
	var errs []error
	if t.Due+t.Leased > 0 {
		errs = append(errs, fmt.Errorf("%d messages are due and were not delivered %s", t.Due+t.Leased, until))
	}
	if n := t.Retrying + t.Waiting; stopped && n > 0 {
		errs = append(errs, fmt.Errorf("%d messages are in backoff and were not delivered %s", n, until))
	}
	if callbacks.Untried > 0 {
		errs = append(errs, fmt.Errorf("%d callbacks are due and were not tried %s", callbacks.Untried, until))
	}
	return errors.Join(errs...)
}
