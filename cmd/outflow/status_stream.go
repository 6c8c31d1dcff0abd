package main

import (
	"cmp"
	"fmt"
	"io"
	"strconv"

	"github.com/outflowhq/outflow/internal/text"
	"github.com/outflowhq/outflow/operator"
	"github.com/outflowhq/outflow/outbox"
)

// brokeBecause says of a stream that could not go on what was heard of it last.
var brokeBecause = map[string]string{
	string(outbox.StreamFailing):   "its last stream ended at %s: the destination failed",
	string(outbox.StreamCancelled): "its last stream ended at %s: its run was cancelled, terminated or reset",
	operator.StreamSilent: "its stream was to be heard of by %s: no worker goes on with it, or its run was terminated " +
		"(\"outflow doctor\" says whether a worker takes streams)",
}

// writeStream writes how the stream of a destination goes or why it ended, or what one would do.
func (d destinationStatus) writeStream(out io.Writer) {
	due, taken := d.Messages["due"].Messages, d.Messages["leased"].Messages
	switch s := d.Stream; {
	case s != nil && s.State == operator.StreamRuns:
		left := ""
		if taken > 0 {
			left = ", " + grouped(taken) + " in its pages"
		}
		switch {
		case s.PerSecond > 0 && due+taken > 0:
			left += ", " + age(float64(due+taken)/float64(s.PerSecond)) + " at this rate"
		case due == 0 && taken > 0:
			left += " (those of a lost worker come back after a minute)"
		}
		since := ""
		if s.StartedAt != nil {
			since = " since " + text.Stamp(*s.StartedAt)
		}
		fmt.Fprintf(out, "\n%s: a stream delivers %s messages a second%s: %s due%s\n  workflow %s\n",
			d.Destination, grouped(s.PerSecond), since, grouped(due), left, s.WorkflowID)
	case s != nil && s.Open():
		fmt.Fprintf(out, "\n%s: its stream is paused: starters start a run for each message meanwhile\n  %s\n",
			d.Destination, unpause(s.WorkflowID))
	case s != nil && s.Broke():
		said := cmp.Or(brokeBecause[s.State], "its last stream ended at %s: "+s.State)
		fmt.Fprintf(out, "\n%s: "+said+"; starters deliver what is left\n", d.Destination, text.Stamp(*s.EndedAt))
	}
	if b := d.Backlog; b != nil {
		fmt.Fprintf(out, "\n%s: %s due, %s at %s messages a second, a run for each\n"+
			"  \"outflow stream start %s\" delivers them by one run, faster by far\n",
			d.Destination, grouped(b.Due), age(b.Seconds), perSecond(b.PerSecond), text.ShellWord(b.Destination))
	}
}

// perSecond is a rate of which a part counts where it is low.
func perSecond(rate float64) string {
	if rate < 10 {
		return strconv.FormatFloat(rate, 'f', 1, 64)
	}
	return grouped(int(rate + 0.5))
}

// grouped writes a number with a comma for each thousand.
func grouped(n int) string {
	digits := strconv.Itoa(n)
	for at := len(digits) - 3; at > 0; at -= 3 {
		digits = digits[:at] + "," + digits[at:]
	}
	return digits
}
