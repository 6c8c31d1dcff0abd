package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/text"
	"github.com/outflowhq/outflow/operator"
)

const statusUsage = `outflow status counts the messages of each destination, and shows which fail.

Usage:
  outflow status [-watch] [-json] [-bound 10000]

Flags:
  -watch  show it again every 2 seconds, until Ctrl-C
  -json   one document for programs
  -bound  how many of the newest delivered, expired, cancelled and dismissed messages to
          count, each (default 10000); a + says that there are more

Pending messages are counted by phase:
  DUE       they wait for a starter
  DELAYED   they wait for their time
  LEASED    they are being delivered
  WAITING   they have no run: their destination is not accepting messages, the starter's
            settings keep them from being sent, or they wait for the message before them
            of their ordering key
  RETRYING  they wait for a durable attempt, or are in one
These and dead messages are counted exactly, which reads each of them. OLDEST is how long
the oldest pending one has been due. DISMISSED are dead messages that "outflow dismiss"
has marked. A destination that does not exist, fails, or whose messages wait, is shown below
with the reason. So is a scheme that no running starter or worker publishes to, and so are
ordering keys that dead messages block. A destination's stream is shown with its rate and
what is left, or with why it could not go on within the last hour; where there is none and
the due messages would take more than ten minutes, what starts one.
Needs only the database. Exit codes: 0 shown, 1 failure, 2 a mistake on the command line.
`

// watchEvery is the wait between two looks.
const watchEvery = 2 * time.Second

func status(ctx context.Context, cl commandLine, args []string) error {
	flags := flag.NewFlagSet("status", flag.ContinueOnError)
	watch := flags.Bool("watch", false, "")
	asJSON := flags.Bool("json", false, "")
	bound := flags.Int("bound", 10_000, "")
	if err := cl.parseFlagsOnly(flags, statusUsage, args); err != nil {
		return err
	}
	if *bound < 1 {
		return usageError("status: -bound wants 1 or more")
	}
	o, closeAll, err := cl.operator(ctx)
	if err != nil {
		return err
	}
	defer closeAll()
	if *watch {
		return watchStatus(ctx, cl, o, *bound, *asJSON)
	}
	return showStatus(ctx, o, *bound, *asJSON, cl.stdout)
}

// statusReader is an operator.Operator.
type statusReader interface {
	Status(ctx context.Context, bound int) ([]operator.PhaseCount, []operator.BreakerStatus, error)
	Running(ctx context.Context) ([]operator.RunningProcess, error)
	Blocked(ctx context.Context) ([]operator.BlockedKeys, error)
	Streams(ctx context.Context) ([]operator.Stream, error)
	Backlogs(
		ctx context.Context, counts []operator.PhaseCount, breakers []operator.BreakerStatus, streams []operator.Stream,
	) ([]operator.Backlog, error)
}

var _ statusReader = (*operator.Operator)(nil)

// watchStatus shows the status again and again until ctx is over. It waits for a database that
// answered before and does not now.
func watchStatus(ctx context.Context, cl commandLine, from statusReader, bound int, asJSON bool) error {
	for first := true; ; first = false {
		if !asJSON {
			fmt.Fprint(raw(cl.stdout), "\x1b[H\x1b[2J") // home, then clear
		}
		err := showStatus(ctx, from, bound, asJSON, cl.stdout)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && first:
			return err
		case err != nil:
			fmt.Fprintf(cl.stderr, "outflow status: %v; trying again\n", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchEvery):
		}
	}
}

// destinationStatus is the messages of one destination, its circuit breaker if it fails, its stream, and
// how long its backlog takes without one if that is long.
type destinationStatus struct {
	Destination string                         `json:"destination"`
	Messages    map[string]operator.PhaseCount `json:"messages"`
	Breaker     *operator.BreakerStatus        `json:"breaker,omitempty"`
	Stream      *operator.Stream               `json:"stream,omitempty"`
	Backlog     *operator.Backlog              `json:"backlog,omitempty"`
}

func showStatus(ctx context.Context, from statusReader, bound int, asJSON bool, out io.Writer) error {
	counts, breakers, err := from.Status(ctx, bound)
	if err != nil {
		return err
	}
	running, err := from.Running(ctx)
	if err != nil {
		return err
	}
	blocked, err := from.Blocked(ctx)
	if err != nil {
		return err
	}
	for i := range blocked {
		blocked[i].Destination = outflow.DisplayDestination(blocked[i].Destination)
	}
	streams, err := from.Streams(ctx)
	if err != nil {
		return err
	}
	backlogs, err := from.Backlogs(ctx, counts, breakers, streams)
	if err != nil {
		return err
	}
	all, unserved := byDestination(counts, breakers, streams, backlogs), operator.Unserved(counts, running)
	if asJSON {
		return writeDocument(out, map[string]any{
			"destinations": all, "bound": bound, "processes": running, "unserved": unserved,
			"blockedKeys": blocked,
		})
	}
	if len(all) == 0 {
		_, err := fmt.Fprintln(out, "no messages")
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	columns := []string{
		"due", "delayed", "leased", "waiting", "retrying", "oldest",
		"dead", "dismissed", "expired", "cancelled", "delivered",
	}
	fmt.Fprintln(table, "DESTINATION\t"+strings.ToUpper(strings.Join(columns, "\t")))
	for _, d := range all {
		fmt.Fprint(table, d.Destination)
		for _, column := range columns {
			cell := number(d.Messages[column])
			if column == "oldest" {
				cell = d.oldest()
			}
			fmt.Fprint(table, "\t", cell)
		}
		fmt.Fprintln(table)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, d := range all {
		d.writeFailures(out)
		d.writeStream(out)
	}
	for _, b := range blocked {
		fmt.Fprintf(out, "\n%s: dead messages block %d ordering keys; "+
			"the oldest message behind them has been due for %s\n  \"outflow retry\", \"redirect\" or \"skip\" the dead ones\n",
			b.Destination, b.Keys, age(b.OldestSeconds))
	}
	writeUnserved(out, unserved, running)
	return nil
}

// writeUnserved writes which schemes of due messages no running process publishes to.
func writeUnserved(out io.Writer, unserved []operator.UnservedScheme, running []operator.RunningProcess) {
	for _, u := range unserved {
		fmt.Fprintf(out, "\n%s://: %d messages are due, and no running starter or worker publishes there\n",
			u.Scheme, u.Messages)
	}
	switch {
	case len(unserved) > 0 && len(running) == 0:
		fmt.Fprintln(out, "  no starter or worker has said within the last minute that it runs")
	case len(unserved) > 0:
		fmt.Fprintf(out, "  running: %s\n", operator.Describe(running))
	}
}

func byDestination(
	counts []operator.PhaseCount, breakers []operator.BreakerStatus, streams []operator.Stream,
	backlogs []operator.Backlog,
) []destinationStatus {
	all := map[string]*destinationStatus{}
	at := func(destination string) *destinationStatus {
		if all[destination] == nil {
			all[destination] = &destinationStatus{
				Destination: breakerName(destination), Messages: map[string]operator.PhaseCount{},
			}
		}
		return all[destination]
	}
	for _, c := range counts {
		of := at(c.Destination)
		c.Destination = of.Destination
		of.Messages[c.Phase] = c
	}
	for _, b := range breakers {
		of := at(b.Destination)
		b.Destination = of.Destination
		of.Breaker = &b
	}
	for _, s := range streams {
		if all[s.Destination] != nil || s.Open() || s.Broke() {
			at(s.Destination).Stream = &s
		}
	}
	for _, b := range backlogs {
		at(b.Destination).Backlog = &b
	}
	sorted := make([]destinationStatus, 0, len(all))
	for _, d := range all {
		sorted = append(sorted, *d)
	}
	slices.SortFunc(sorted, func(a, b destinationStatus) int { return cmp.Compare(a.Destination, b.Destination) })
	return sorted
}

// breakerName returns a destination as people see it; "#new" stands for the new paths of a host,
// which share a breaker.
func breakerName(destination string) string {
	if host, ok := strings.CutSuffix(destination, "#new"); ok {
		return outflow.DisplayDestination(host) + " (new paths)"
	}
	return outflow.DisplayDestination(destination)
}

func number(c operator.PhaseCount) string {
	if c.AtLeast {
		return strconv.Itoa(c.Messages) + "+"
	}
	return strconv.Itoa(c.Messages)
}

func (d destinationStatus) oldest() string {
	seconds := 0.0
	for _, phase := range []string{"due", "leased", "waiting", "retrying"} {
		seconds = max(seconds, d.Messages[phase].OldestSeconds)
	}
	if seconds == 0 {
		return "-"
	}
	return age(seconds)
}

func age(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d < 48*time.Hour:
		return d.Round(time.Second).String()
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// writeFailures writes what the breaker, or else the messages, show of a destination that fails or
// is slow.
func (d destinationStatus) writeFailures(out io.Writer) {
	if b := d.Breaker; b != nil && b.SlowUntil != nil {
		fmt.Fprintf(out, "\n%s: slow to answer until %s, or longer: messages leave the fast path unsent\n",
			d.Destination, text.Stamp(*b.SlowUntil))
	}
	if b := d.Breaker; b != nil && b.MissingSince != nil {
		fmt.Fprintf(out, "\n%s: missing since %s: its messages wait for it, and end dead after "+
			"OUTFLOW_MISSING_GRACE\n  %s\n",
			d.Destination, text.Stamp(*b.MissingSince), short(b.MissingReason, 300))
		return
	}
	if b := d.Breaker; b != nil && b.FailingSince != nil {
		fmt.Fprintf(out, "\n%s: %d failures since %s", d.Destination, b.Failures, text.Stamp(*b.FailingSince))
		switch {
		case b.Open:
			fmt.Fprintf(out, ", breaker open until %s", text.Stamp(*b.OpenUntil))
		case b.OpenUntil != nil:
			fmt.Fprint(out, ", breaker open: the next probe is due")
		}
		fmt.Fprintf(out, "\n  %s\n", short(b.LastError, 300))
		return
	}
	for _, phase := range []string{"waiting", "retrying", "dead"} {
		if c := d.Messages[phase]; c.LastError != "" {
			fmt.Fprintf(out, "\n%s: %s %s\n  %s\n", d.Destination, number(c), phase, short(c.LastError, 300))
		}
	}
}
