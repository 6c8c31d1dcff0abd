package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/control"
	"github.com/outflowhq/outflow/internal/program"
	"github.com/outflowhq/outflow/outboxdb"
)

const (
	// actAtOnce is how many messages one statement of an act changes.
	actAtOnce = 100
	// selectAtMost is how many messages a filter selects without -limit.
	selectAtMost = 1000
	pageSize     = 500
)

// selection is the messages that an act is for: by ID, or by a filter.
type selection struct {
	command string
	ids     []uuid.UUID
	filter  outboxdb.ListFilter
	limit   int
	rate    float64
	yes     bool
	json    bool

	state, destination *string
	// filters are the flags that can stand instead of IDs, for people.
	filters []string
}

// selectionFlags are those of the acts that take a filter.
func selectionFlags(flags *flag.FlagSet) *selection {
	s := &selection{command: flags.Name(), filters: []string{"-state"}}
	s.state = flags.String("state", "", "")
	s.destination = destinationFlag(flags, "destination")
	typeFlag(flags, &s.filter.Type)
	flags.IntVar(&s.limit, "limit", selectAtMost, "")
	rateFlag(flags, &s.rate)
	flags.BoolVar(&s.yes, "yes", false, "")
	flags.BoolVar(&s.json, "json", false, "")
	return s
}

// retryingFlag is for the acts that take pending messages.
func (s *selection) retryingFlag(flags *flag.FlagSet) {
	s.filters = append(s.filters, "-retrying")
	flags.BoolVar(&s.filter.Retrying, "retrying", false, "")
}

// dismissedFlag is for the acts that take dismissed messages: only a filter that names
// them selects them.
func (s *selection) dismissedFlag(flags *flag.FlagSet) {
	s.filters = append(s.filters, "-dismissed")
	flags.BoolVar(&s.filter.Dismissed, "dismissed", false, "")
}

// read completes the selection: IDs or a filter, whose state is one of allowed.
func (s *selection) read(words []string, allowed ...outflow.State) (err error) {
	s.filter.State, s.filter.Destination = outflow.State(*s.state), *s.destination
	filtered := s.filter != outboxdb.ListFilter{}
	switch {
	case len(words) > 0 && filtered:
		return usageError("%s: wants message IDs or a filter, not both", s.command)
	case s.rate < 0:
		return usageError("%s: -rate wants messages a second", s.command)
	case len(words) > 0 && s.limit != selectAtMost:
		return usageError("%s: -limit is for a filter; these are all that is touched", s.command)
	case len(words) > 0:
		s.ids, err = readIDs(s.command, words)
		return err
	case s.filter.Retrying && s.filter.State != "" && s.filter.State != outflow.Pending:
		return usageError("%s: -retrying messages are pending ones", s.command)
	case s.filter.Dismissed && (s.filter.Retrying || s.filter.State != "" && s.filter.State != outflow.Dead):
		return usageError("%s: -dismissed messages are dead ones", s.command)
	case s.filter.State == "" && !s.filter.Retrying && !s.filter.Dismissed:
		return usageError("%s: wants message IDs, or %s", s.command, orOf(s.filters))
	case s.limit < 1:
		return usageError("%s: -limit wants 1 or more", s.command)
	}
	switch {
	case s.filter.Retrying:
		s.filter.State = outflow.Pending
	case s.filter.Dismissed:
		s.filter.State = outflow.Dead
	case s.filter.State == outflow.Dead: // somebody has decided that the others are not sent
		s.filter.Undismissed = true
	}
	wanted := make([]string, len(allowed))
	for i, state := range allowed {
		if s.filter.State == state {
			return nil
		}
		wanted[i] = string(state)
	}
	hint := ""
	if s.command == "retry" && s.filter.State == outflow.Delivered {
		hint = `: "outflow resend ID…" sends copies of delivered messages`
	}
	return usageError("%s: -state wants %s (got %q)%s", s.command, orOf(wanted), s.filter.State, hint)
}

// lister lists messages, and knows what a filter may have meant; outboxdb.Operator is
// one.
type lister interface {
	List(ctx context.Context, f outboxdb.ListFilter) (page []outboxdb.Standing, next string, err error)
	KnownDestinations(ctx context.Context, destination string) ([]string, error)
	KnownTypes(ctx context.Context) ([]string, error)
}

// messages returns the IDs, which it looks up before the act changes what the
// filter finds. It asks before a filter touches more than one.
func (s *selection) messages(ctx context.Context, t tools, from lister) ([]uuid.UUID, error) {
	if s.ids != nil {
		return s.ids, nil
	}
	var ids []uuid.UUID
	seen := map[uuid.UUID]bool{} // what is delivered meanwhile moves, and is listed twice
	filter := s.filter
	for len(ids) < s.limit {
		filter.Limit = min(pageSize, s.limit-len(ids))
		page, next, err := from.List(ctx, filter)
		if err != nil {
			return nil, err
		}
		for _, m := range page {
			if !seen[m.ID] {
				seen[m.ID] = true
				ids = append(ids, m.ID)
			}
		}
		if filter.After = next; next == "" {
			break
		}
	}
	if len(ids) == 0 {
		sayUnknown(ctx, from, s.filter, t.stderr)
	}
	more := ""
	if filter.After != "" {
		more = ", and there are more"
	}
	if len(ids) > 1 && !s.yes {
		return ids, t.confirm(s.command, fmt.Sprintf("%s %d messages%s?", s.command, len(ids), more))
	}
	fmt.Fprintf(t.stderr, "messages selected: %d%s\n", len(ids), more)
	return ids, nil
}

// act carries an act out on all messages, some at a time and no faster than
// rate, and prints each answer. Its error says what did not come about.
func (s *selection) act(ctx context.Context, t tools, from lister, do func(context.Context, []uuid.UUID) ([]control.Answer, error)) error {
	ids, err := s.messages(ctx, t, from)
	if err != nil {
		return err
	}
	total, step := len(ids), actAtOnce
	if s.rate > 0 {
		step = max(1, min(step, int(s.rate)))
	}
	verdicts := map[control.Verdict]int{}
	told := time.Now()
	for len(ids) > 0 {
		began := time.Now()
		some := ids[:min(step, len(ids))]
		got, err := do(ctx, some)
		for _, a := range got {
			verdicts[a.Verdict]++
			if err := writeAnswer(t.stdout, a, s.json); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
		ids = ids[len(some):]
		if time.Since(told) > 2*time.Second && len(ids) > 0 {
			told = time.Now()
			fmt.Fprintf(t.stderr, "%d of %d\n", total-len(ids), total)
		}
		if len(ids) > 0 {
			if err := pace(ctx, len(some), s.rate, began); err != nil {
				return fmt.Errorf("stopped after %d of %d messages: %w", total-len(ids), total, err)
			}
		}
	}
	return verdictOf(verdicts, total)
}

// pace waits until n messages, begun at a time, have taken as long as the rate a
// second allows; 0 allows any.
func pace(ctx context.Context, n int, rate float64, began time.Time) error {
	if rate == 0 {
		return nil
	}
	select {
	case <-time.After(time.Duration(float64(n)/rate*float64(time.Second)) - time.Since(began)):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func writeAnswer(out io.Writer, a control.Answer, asJSON bool) error {
	if asJSON {
		return writeLine(out, a)
	}
	_, err := fmt.Fprintf(out, "%s  %s\n", a.ID, a.Text)
	return err
}

// verdictOf sums the verdicts on so many messages up: nil where all is done.
func verdictOf(n map[control.Verdict]int, total int) error {
	switch {
	case n[control.Failed] > 0:
		return fmt.Errorf("%d of %d messages: their runs could not be reached", n[control.Failed], total)
	case n[control.Undecided] > 0:
		return program.ExitError{Code: exitUndecided, Err: fmt.Errorf("%d of %d messages: not decided yet", n[control.Undecided], total)}
	case n[control.Refused] > 0:
		return program.ExitError{Code: exitRefused, Err: fmt.Errorf("%d of %d messages: not done", n[control.Refused], total)}
	}
	return nil
}
