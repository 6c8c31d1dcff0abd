package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// payloadSizes are in bytes.
var payloadSizes = []int{1, 256, 4 << 10, 200 << 10}

// payloadBytes are the most that a backlog's payloads have together.
const payloadBytes = 128 << 20

// payloadsOf are the variants whose payloads are measured.
var payloadsOf = []string{naiveEager, tracked, riverPeer, dbosPeer, watermillPeer, stream}

// payloadResults are by variant and size, of each round.
type payloadResults map[string]map[int][]result

func (w *world) measurePayloads(ctx context.Context, s settings) (payloadResults, error) {
	found := payloadResults{}
	for round := range s.rounds {
		for i, size := range payloadSizes {
			for _, variant := range turn(chosen(s.only, payloadsOf), round) {
				l := load{messages: max(min(s.backlog(variant), payloadBytes/size), 1), size: size}
				r, err := w.drain(ctx, variant, len(payloadSizes)*round+i+1, l)
				if err != nil {
					return nil, fmt.Errorf("measuring %s with payloads of %d bytes: %w", variant, size, err)
				}
				fmt.Fprintf(w.stderr, "round %d: %-11s %6d bytes %7.1f messages/s\n", round+1, variant, size, r.rate())
				if found[variant] == nil {
					found[variant] = map[int][]result{}
				}
				found[variant][size] = append(found[variant][size], r)
			}
		}
	}
	return found, nil
}

func reportPayloads(out io.Writer, s settings, found payloadResults) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "\n\t\t CPU seconds for 1,000 messages\t\t\t\t\t\n")
	fmt.Fprint(t, "median\tmessages/s\tPostgres\tTemporal\tdispatcher\tqueue\tall\t\n")
	for _, size := range payloadSizes {
		for _, variant := range chosen(s.only, payloadsOf) {
			column := func(value func(result) float64) float64 {
				var all []float64
				for _, r := range found[variant][size] {
					all = append(all, value(r))
				}
				return median(all)
			}
			cost := func(part func(cpu) time.Duration) float64 {
				return column(func(r result) float64 { return perThousand(part(r.cpu), r.messages) })
			}
			fmt.Fprintf(t, "%d bytes: %s\t%.1f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t\n", size, variant, column(result.rate),
				cost(func(c cpu) time.Duration { return c.postgres }), cost(func(c cpu) time.Duration { return c.temporal }),
				cost(func(c cpu) time.Duration { return c.dispatcher }), cost(func(c cpu) time.Duration { return c.queue }),
				cost(cpu.sum))
		}
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("printing the table: %w", err)
	}
	fmt.Fprintln(out)
	return nil
}
