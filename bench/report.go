package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// compared are the ratios that are printed: the first variant's messages/s over the second's.
var compared = [][2]string{
	{tracked, floor}, {tracked, floorTwo}, {tracked, naive}, {tracked, naiveEager},
	{stream, riverPeer}, {stream, dbosPeer}, {stream, watermillPeer}, {stream, queueAlone},
}

// report prints a table for people, and lines "ratio NAME VALUE" and "value NAME VALUE" for scripts. The
// names of the ratios end with suffix.
func report(out io.Writer, s settings, results map[string][]result, suffix string) error {
	of := func(variant string, value func(result) float64) []float64 {
		var all []float64
		for _, r := range results[variant] {
			all = append(all, value(r))
		}
		return all
	}
	cost := func(part func(cpu) time.Duration) func(result) float64 {
		return func(r result) float64 { return perThousand(part(r.cpu), r.messages) }
	}

	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "\n\t\t CPU seconds for 1,000 messages\t\t\t\t\teach message\t\t\n")
	fmt.Fprint(t, "median\tmessages/s\tPostgres\tTemporal\tdispatcher\tqueue\tall\tSQS requests\trow writes\t\n")
	for _, variant := range s.only {
		column := func(value func(result) float64) float64 { return median(of(variant, value)) }
		fmt.Fprintf(t, "%s\t%.1f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t\n", variant, column(result.rate),
			column(cost(func(c cpu) time.Duration { return c.postgres })), column(cost(func(c cpu) time.Duration { return c.temporal })),
			column(cost(func(c cpu) time.Duration { return c.dispatcher })), column(cost(func(c cpu) time.Duration { return c.queue })),
			column(cost(cpu.sum)),
			column(func(r result) float64 { return r.requests }), column(func(r result) float64 { return r.writes }))
	}
	fmt.Fprint(t, "\n")
	rounds(t, "messages/s", "%.1f", s, func(variant string) []float64 { return of(variant, result.rate) }, s.only)
	fmt.Fprint(t, "\n")
	rounds(t, "CPU that others used", "%.0f%%", s, func(variant string) []float64 {
		return of(variant, func(r result) float64 { return 100 * r.cpu.others() })
	}, s.only)
	names := []string{}
	all := map[string][]float64{}
	for _, c := range compared {
		if slices.Contains(s.only, c[0]) && slices.Contains(s.only, c[1]) {
			name := c[0] + "/" + c[1] + suffix
			names = append(names, name)
			all[name] = ratios(of(c[0], result.rate), of(c[1], result.rate))
		}
	}
	fmt.Fprint(t, "\n")
	rounds(t, "ratio", "%.2f", s, func(name string) []float64 { return all[name] }, names)
	if err := t.Flush(); err != nil {
		return fmt.Errorf("printing the table: %w", err)
	}
	fmt.Fprintln(out)
	for _, name := range names {
		fmt.Fprintf(out, "ratio %s %.2f\n", name, median(all[name]))
	}
	if slices.Contains(s.only, tracked) && slices.Contains(s.only, floorTwo) {
		postgres := cost(func(c cpu) time.Duration { return c.postgres })
		fmt.Fprintf(out, "value postgres-over-%s %.2f\n", floorTwo,
			median(differences(of(tracked, postgres), of(floorTwo, postgres))))
	}
	return nil
}

// reportTriggers prints how long messages took with each trigger, and what it costs while nothing
// happens.
func reportTriggers(out io.Writer, wakings []waking, starts []time.Duration) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "\t commit to queue at %d/s\t\t\t idle, a minute\t\t\t\t\n", latencyRate)
	fmt.Fprint(t, "trigger\tp50\tp95\tp99\tstatements\tlog bytes\tPostgres\tdispatcher\t\n")
	times := func(values []time.Duration) string {
		return fmt.Sprintf("%.1f ms\t%.1f ms\t%.1f ms", milliseconds(percentile(values, 50)),
			milliseconds(percentile(values, 95)), milliseconds(percentile(values, 99)))
	}
	for _, w := range wakings {
		fmt.Fprintf(t, "%s\t%s\t%.0f\t%.0f\t%.0f ms\t%.0f ms\t\n", w.trigger, times(w.latencies), w.idle.statements,
			w.idle.walBytes, milliseconds(w.idle.postgres), milliseconds(w.idle.dispatcher))
	}
	fmt.Fprintf(t, "empty eager start\t%s\t\t\t\t\t\n", times(starts))
	if err := t.Flush(); err != nil {
		return fmt.Errorf("printing the table: %w", err)
	}
	fmt.Fprintln(out)
	for _, w := range wakings {
		for _, p := range []float64{50, 99} {
			above := milliseconds(percentile(w.latencies, p) - percentile(starts, p))
			fmt.Fprintf(out, "above-start %s p%.0f %.1f ms\n", w.trigger, p, above)
		}
	}
	fmt.Fprintln(out)
	return nil
}

// rounds prints the value of every round.
func rounds(out io.Writer, title, format string, s settings, values func(string) []float64, names []string) {
	if len(names) == 0 {
		return
	}
	fmt.Fprint(out, title)
	for i := range s.rounds {
		fmt.Fprintf(out, "\tround %d", i+1)
	}
	fmt.Fprint(out, "\t\n")
	for _, name := range names {
		fmt.Fprint(out, name)
		for _, v := range values(name) {
			fmt.Fprintf(out, "\t"+format, v)
		}
		fmt.Fprint(out, "\t\n")
	}
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
