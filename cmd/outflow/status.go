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
	"github.com/outflowhq/outflow/outboxdb"
)

const statusUsage = `outflow status counts the messages of each destination, and shows which fail.

Usage:
  outflow status [-watch] [-json] [-bound 10000]

Flags:
  -watch  show it again every 2 seconds, until Ctrl-C
  -json   one document for programs
  -bound  how many of the newest delivered, expired, cancelled and dismissed messages to
          count, each (default 10000); a + says that there are more

Due messages wait for a starter, delayed ones for their time, leased ones are being
delivered. Waiting ones have no run: their destination took nothing, or the starter's
settings keep them from being sent. Retrying ones wait for or are in a durable attempt.
All these and dead ones are counted exactly, which reads each of them. OLDEST is how
long the oldest pending one has been due. DISMISSED are dead messages that "outflow
dismiss" let go. A destination that fails, or whose messages wait, is shown below with
its last error.
Needs the database alone. Exit codes: 0 shown, 1 failure, 2 a mistake on the command line.
`

// watchEvery is the wait between two looks.
const watchEvery = 2 * time.Second

func status(ctx context.Context, t tools, args []string) error {
	flags := flag.NewFlagSet("status", flag.ContinueOnError)
	watch := flags.Bool("watch", false, "")
	asJSON := flags.Bool("json", false, "")
	bound := flags.Int("bound", 10_000, "")
	if err := t.parseNothing(flags, statusUsage, args); err != nil {
		return err
	}
	if *bound < 1 {
		return usageError("status: -bound wants 1 or more")
	}
	store, done, err := t.operator(ctx)
	if err != nil {
		return err
	}
	defer done()
	if *watch {
		return watchStatus(ctx, t, store, *bound, *asJSON)
	}
	return showStatus(ctx, store, *bound, *asJSON, t.stdout)
}

// watchStatus shows the status again and again until ctx is over. A database that
// was there and is away is waited for.
func watchStatus(ctx context.Context, t tools, store statusStore, bound int, asJSON bool) error {
	for first := true; ; first = false {
		if !asJSON {
			fmt.Fprint(raw(t.stdout), "\x1b[H\x1b[2J") // home, and clear
		}
		err := showStatus(ctx, store, bound, asJSON, t.stdout)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && first:
			return err
		case err != nil:
			fmt.Fprintf(t.stderr, "outflow status: %v; trying again\n", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchEvery):
		}
	}
}

type statusStore interface {
	Status(ctx context.Context, bound int) ([]outboxdb.PhaseCount, []outboxdb.Trouble, error)
}

// destinationStatus is how one destination does.
type destinationStatus struct {
	Destination string                         `json:"destination"`
	Messages    map[string]outboxdb.PhaseCount `json:"messages"`
	Trouble     *outboxdb.Trouble              `json:"trouble,omitempty"`
}

func showStatus(ctx context.Context, store statusStore, bound int, asJSON bool, out io.Writer) error {
	counts, troubled, err := store.Status(ctx, bound)
	if err != nil {
		return err
	}
	all := byDestination(counts, troubled)
	if asJSON {
		return writeDocument(out, map[string]any{"destinations": all, "bound": bound})
	}
	if len(all) == 0 {
		_, err := fmt.Fprintln(out, "no messages")
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "DESTINATION\tDUE\tDELAYED\tLEASED\tWAITING\tRETRYING\tOLDEST\tDEAD\tDISMISSED\tEXPIRED\tCANCELLED\tDELIVERED")
	for _, d := range all {
		fmt.Fprint(table, d.Destination)
		for _, phase := range []string{"due", "delayed", "leased", "waiting", "retrying", "", "dead", "dismissed", "expired", "cancelled", "delivered"} {
			if phase == "" {
				fmt.Fprint(table, "\t", d.oldest())
				continue
			}
			fmt.Fprint(table, "\t", number(d.Messages[phase]))
		}
		fmt.Fprintln(table)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, d := range all {
		d.writeTrouble(out)
	}
	return nil
}

func byDestination(counts []outboxdb.PhaseCount, troubled []outboxdb.Trouble) []destinationStatus {
	all := map[string]*destinationStatus{}
	at := func(destination string) *destinationStatus {
		if all[destination] == nil {
			all[destination] = &destinationStatus{Destination: breakerName(destination), Messages: map[string]outboxdb.PhaseCount{}}
		}
		return all[destination]
	}
	for _, c := range counts {
		of := at(c.Destination)
		c.Destination = of.Destination
		of.Messages[c.Phase] = c
	}
	for _, trouble := range troubled {
		of := at(trouble.Destination)
		trouble.Destination = of.Destination
		of.Trouble = &trouble
	}
	sorted := make([]destinationStatus, 0, len(all))
	for _, d := range all {
		sorted = append(sorted, *d)
	}
	slices.SortFunc(sorted, func(a, b destinationStatus) int { return cmp.Compare(a.Destination, b.Destination) })
	return sorted
}

// breakerName shows a destination, or the breaker of a host's new paths.
func breakerName(destination string) string {
	if host, ok := strings.CutSuffix(destination, "#new"); ok {
		return outflow.DisplayDestination(host) + " (new paths)"
	}
	return outflow.DisplayDestination(destination)
}

func number(c outboxdb.PhaseCount) string {
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

// writeTrouble says what the breaker and the messages say of a destination.
func (d destinationStatus) writeTrouble(out io.Writer) {
	if b := d.Trouble; b != nil && b.SlowUntil != nil {
		fmt.Fprintf(out, "\n%s: slow to answer until %s, or longer: messages leave the fast path unsent\n", d.Destination, stamp(*b.SlowUntil))
	}
	if b := d.Trouble; b != nil && b.FailingSince != nil {
		fmt.Fprintf(out, "\n%s: %d failures", d.Destination, b.Failures)
		fmt.Fprintf(out, " since %s", stamp(*b.FailingSince))
		switch {
		case b.Open:
			fmt.Fprintf(out, ", breaker open until %s", stamp(*b.OpenUntil))
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
