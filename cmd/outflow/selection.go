package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/program"
	"github.com/outflowhq/outflow/operator"
)

const (
	// actBatch is how many messages one statement of an act changes.
	actBatch = 100
	// defaultLimit is how many messages a filter selects without -limit.
	defaultLimit = 1000
	pageSize     = 500
	// progressEvery is the time between two lines of progress.
	progressEvery = 2 * time.Second
)

// The parts of the usage that acts on a selection have in common.
const (
	actFlags = `  -rate          messages a second (default: as fast as it goes)
  -yes           do not ask before a filter selects more than one message
  -json          an answer a line
  -who, -why     for the audit (default of -who: OUTFLOW_WHO, else you at this host)
`
	actCodes = `Exit codes: 0 done for all, 1 failure, 2 a mistake on the command line, 3 not done for
some: each answer says why.
`
)

// selection is the messages that an act is for: by ID, or by a filter.
type selection struct {
	command string
	ids     []uuid.UUID
	filter  operator.ListFilter
	limit   int
	rate    float64
	yes     bool
	json    bool

	state, destination *string
	// filters are the flags that can stand instead of IDs, for people.
	filters []string
}

// selectionFlags reads the flags of the acts that accept a filter.
func selectionFlags(flags *flag.FlagSet) *selection {
	s := &selection{command: flags.Name(), filters: []string{"-state"}}
	s.state = flags.String("state", "", "")
	s.destination = destinationFlag(flags, "destination")
	typeFlag(flags, &s.filter.Type)
	groupFlag(flags, &s.filter.Group)
	flags.IntVar(&s.limit, "limit", defaultLimit, "")
	rateFlag(flags, &s.rate)
	flags.BoolVar(&s.yes, "yes", false, "")
	flags.BoolVar(&s.json, "json", false, "")
	return s
}

// retryingFlag is for the acts on pending messages.
func (s *selection) retryingFlag(flags *flag.FlagSet) {
	s.filters = append(s.filters, "-retrying")
	flags.BoolVar(&s.filter.Retrying, "retrying", false, "")
}

// dismissedFlag is for the acts on dismissed messages: only a filter that names them selects them.
func (s *selection) dismissedFlag(flags *flag.FlagSet) {
	s.filters = append(s.filters, "-dismissed")
	flags.BoolVar(&s.filter.Dismissed, "dismissed", false, "")
}

// readIDs completes the selection of an act that accepts no filter.
func (s *selection) readIDs(words []string) (err error) {
	if len(words) == 0 {
		return usageError("%s: wants message IDs", s.command)
	}
	s.ids, err = readIDs(s.command, words)
	return err
}

// read completes the selection: IDs or a filter, whose state is one of allowed.
func (s *selection) read(words []string, allowed ...outflow.State) (err error) {
	s.filter.State, s.filter.Destination = outflow.State(*s.state), *s.destination
	filtered := s.filter != operator.ListFilter{}
	switch {
	case len(words) > 0 && filtered:
		return usageError("%s: wants message IDs or a filter, not both", s.command)
	case s.rate < 0:
		return usageError("%s: -rate wants messages a second", s.command)
	case len(words) > 0 && s.limit != defaultLimit:
		return usageError("%s: -limit is for a filter; IDs name every message", s.command)
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
	case s.filter.State == outflow.Dead: // an operator decided that the others are not sent
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

// lister lists messages, and knows what a filter may have meant; operator.Operator is
// one.
type lister interface {
	List(ctx context.Context, f operator.ListFilter) (page []operator.MessageStatus, next string, err error)
	KnownDestinations(ctx context.Context, destination string) ([]string, error)
	KnownTypes(ctx context.Context) ([]string, error)
}

var _ lister = (*operator.Operator)(nil)

// messages returns the IDs. It looks all up before the act changes what the filter finds, and asks
// before a filter selects more than one message.
func (s *selection) messages(ctx context.Context, cl commandLine, from lister) ([]uuid.UUID, error) {
	if s.ids != nil {
		return s.ids, nil
	}
	var ids []uuid.UUID
	seen := map[uuid.UUID]bool{} // a message that is delivered meanwhile moves, and is listed twice
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
		hintUnknown(ctx, from, s.filter, cl.stderr)
	}
	more := ""
	if filter.After != "" {
		more = ", and there are more"
	}
	if len(ids) > 1 && !s.yes {
		return ids, cl.confirm(s.command, fmt.Sprintf("%s %d messages%s?", s.command, len(ids), more))
	}
	fmt.Fprintf(cl.stderr, "messages selected: %d%s\n", len(ids), more)
	return ids, nil
}

// act does an act to all messages, some at a time and no faster than the rate, and prints each
// answer. Its error says how many were not done.
func (s *selection) act(
	ctx context.Context, cl commandLine, from lister,
	do func(context.Context, []uuid.UUID) ([]operator.Answer, error),
) error {
	ids, err := s.messages(ctx, cl, from)
	if err != nil {
		return err
	}
	total, step := len(ids), actBatch
	if s.rate > 0 {
		step = max(1, min(step, int(s.rate)))
	}
	verdicts := map[operator.Verdict]int{}
	reported := time.Now()
	for len(ids) > 0 {
		began := time.Now()
		some := ids[:min(step, len(ids))]
		got, err := do(ctx, some)
		for _, a := range got {
			verdicts[a.Verdict]++
			if err := writeAnswer(cl.stdout, a, s.json); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
		ids = ids[len(some):]
		if time.Since(reported) > progressEvery && len(ids) > 0 {
			reported = time.Now()
			fmt.Fprintf(cl.stderr, "%d of %d\n", total-len(ids), total)
		}
		if len(ids) > 0 {
			if err := pace(ctx, len(some), s.rate, began); err != nil {
				return fmt.Errorf("stopped after %d of %d messages: %w", total-len(ids), total, err)
			}
		}
	}
	return verdictError(verdicts, total)
}

// pace waits until n messages since began are no more than rate a second; 0 allows any.
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

func writeAnswer(out io.Writer, a operator.Answer, asJSON bool) error {
	if asJSON {
		return writeLine(out, a)
	}
	_, err := fmt.Fprintf(out, "%s  %s\n", a.ID, a.Text)
	return err
}

// verdictError sums the verdicts on so many messages up: nil where all are done.
func verdictError(n map[operator.Verdict]int, total int) error {
	switch {
	case n[operator.Failed] > 0:
		return fmt.Errorf("%d of %d messages: their runs could not be reached", n[operator.Failed], total)
	case n[operator.Undecided] > 0:
		return program.ExitError{Code: exitUndecided,
			Err: fmt.Errorf("%d of %d messages: not decided yet", n[operator.Undecided], total)}
	case n[operator.Refused] > 0:
		return program.ExitError{Code: exitRefused,
			Err: fmt.Errorf("%d of %d messages: not done", n[operator.Refused], total)}
	}
	return nil
}
