package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
)

// bench measures all variants in turn, round by round, and prints what it found.
func bench(ctx context.Context, s settings, getenv func(string) string, stdout, stderr io.Writer) (err error) {
	w, err := newWorld(ctx, getenv, stderr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	fmt.Fprintf(stdout, "%d rounds of %d messages (fast variants: %d) on %d CPUs, variants in turn\n", s.rounds,
		s.messages, s.fastMessages, runtime.NumCPU())
	if err := w.describe(ctx, stdout); err != nil {
		return err
	}
	switch {
	case s.growth > 0:
		found, err := w.measureGrowth(ctx, s)
		if err != nil {
			return err
		}
		return reportGrowth(stdout, s, found)
	case s.payloads:
		found, err := w.measurePayloads(ctx, s)
		if err != nil {
			return err
		}
		return reportPayloads(stdout, s, found)
	}
	return w.measureRounds(ctx, s, stdout)
}

// measureRounds measures drains in rounds, and then latencies.
func (w *world) measureRounds(ctx context.Context, s settings, stdout io.Writer) error {
	results := map[string][]result{}
	for round := range s.rounds {
		for _, variant := range turn(s.only, round) {
			r, err := w.drain(ctx, variant, round+1, load{messages: s.backlog(variant)})
			if err != nil {
				return fmt.Errorf("measuring %s in round %d: %w", variant, round+1, err)
			}
			results[variant] = append(results[variant], r)
			fmt.Fprintf(w.stderr, "round %d: %-11s %7.1f messages/s\n", round+1, variant, r.rate())
		}
	}
	if err := errors.Join(report(stdout, s, results, ""), reportCosts(stdout, s, results)); err != nil {
		return err
	}
	if err := w.measureFar(ctx, s, stdout); err != nil {
		return err
	}
	if s.paced > 0 {
		found, err := w.measurePaces(ctx, s, results)
		if err != nil {
			return err
		}
		if err := reportPaces(stdout, found); err != nil {
			return err
		}
	}
	if s.latency == 0 || !slices.Contains(s.only, tracked) {
		return nil
	}
	wakings, starts, err := w.measureTriggers(ctx, s.latency)
	if err != nil {
		return err
	}
	committed, err := w.measureCommits(ctx)
	if err != nil {
		return err
	}
	return errors.Join(reportTriggers(stdout, wakings, starts), committed.report(stdout))
}

// turn is the order of a round: each begins with another variant, so that none always follows the
// same one's leftovers.
func turn(only []string, round int) []string {
	first := round % len(only)
	return slices.Concat(only[first:], only[:first])
}
