package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"os/user"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/control"
	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/internal/program"
	"github.com/outflowhq/outflow/internal/text"
	"github.com/outflowhq/outflow/outboxdb"
)

// The exit codes beside 0, 1 and 2.
const (
	exitRefused   = 3 // a message is not, or does not become, what was asked for
	exitUndecided = 4 // the time to wait was over before that was known
)

// tools are what every command works with.
type tools struct {
	getenv         func(string) string
	stdin          io.Reader
	stdout, stderr io.Writer
	// terminal says that somebody at stdin can answer a question.
	terminal bool
	// onScreen says that stdout is a terminal.
	onScreen bool
	// seen is told of each command's flags; for tests.
	seen func(*flag.FlagSet)
}

// isTerminal says whether f is a terminal: a character device other than the one
// that scripts give who must not ask.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}

// parse reads flags, which may stand before and after words, and returns the
// words. Where help was asked for it prints usage and returns flag.ErrHelp.
func (t tools) parse(flags *flag.FlagSet, usage string, args []string) ([]string, error) {
	flags.SetOutput(io.Discard)
	if t.seen != nil {
		t.seen(flags)
	}
	var words []string
	for {
		switch err := flags.Parse(args); {
		case errors.Is(err, flag.ErrHelp):
			fmt.Fprint(t.stdout, usage)
			return nil, err
		case err != nil:
			return nil, mistakenFlag(flags, err)
		case flags.NArg() == 0:
			return words, nil
		}
		words, args = append(words, flags.Arg(0)), flags.Args()[1:]
	}
}

// parseNothing is parse for a command without words.
func (t tools) parseNothing(flags *flag.FlagSet, usage string, args []string) error {
	words, err := t.parse(flags, usage, args)
	if err == nil && len(words) > 0 {
		return usageError("%s: unexpected argument %q", flags.Name(), words[0])
	}
	return err
}

func readIDs(command string, words []string) ([]uuid.UUID, error) {
	ids := make([]uuid.UUID, 0, len(words))
	seen := map[uuid.UUID]bool{}
	for _, word := range words {
		id, err := uuid.Parse(word)
		if err != nil {
			return nil, usageError("%s: wants message IDs such as 0198f3a2-5b1c-7000-8000-000000000001 (got %q)", command, word)
		}
		if !seen[id] {
			seen[id] = true
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func readID(command string, words []string) (uuid.UUID, error) {
	if len(words) != 1 {
		return uuid.Nil, usageError("%s: wants one message ID", command)
	}
	ids, err := readIDs(command, words)
	if err != nil {
		return uuid.Nil, err
	}
	return ids[0], nil
}

// rateFlag is a number of messages a second: 0 where it is not given, which is any, and
// negative where the number is no rate.
func rateFlag(flags *flag.FlagSet, rate *float64) {
	flags.Func("rate", "", func(s string) error {
		n, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return errors.New("wants a number")
		}
		if *rate = n; !(n > 0 && n <= math.MaxInt32) { // NaN is neither
			*rate = -1
		}
		return nil
	})
}

// destinationFlag is a destination, made canonical.
func destinationFlag(flags *flag.FlagSet, name string) *string {
	canonical := new(string)
	destinationVar(flags, canonical, name)
	return canonical
}

func destinationVar(flags *flag.FlagSet, canonical *string, name string) {
	flags.Func(name, "", func(s string) error {
		d, err := outflow.ParseDestination(s)
		*canonical = d.String()
		return err
	})
}

// typeFlag is a message type to select by. Leaving it out is how to say any: a
// script's empty variable must not.
func typeFlag(flags *flag.FlagSet, into *string) {
	flags.Func("type", "", func(s string) error {
		if s == "" {
			return errors.New("wants a message type")
		}
		*into = s
		return nil
	})
}

// spanFlag is a duration that may be given in days.
func spanFlag(flags *flag.FlagSet, name string, least time.Duration) *time.Duration {
	span := new(time.Duration)
	flags.Func(name, "", func(s string) (err error) {
		if *span, err = parseSpan(s); err == nil && *span < least {
			err = fmt.Errorf("wants at least %s", least)
		}
		return err
	})
	return span
}

var days = regexp.MustCompile(`^(\d{1,5})d$`)

func parseSpan(s string) (time.Duration, error) {
	if m := days.FindStringSubmatch(s); m != nil {
		n, err := strconv.Atoi(m[1])
		return time.Duration(n) * 24 * time.Hour, err
	}
	span, err := time.ParseDuration(s)
	if err != nil {
		return 0, errors.New("wants a duration such as 90s, 10m, 36h or 7d")
	}
	return span, nil
}

// momentFlag is a time, or how long ago.
func momentFlag(flags *flag.FlagSet, name string) *outboxdb.Moment {
	moment := new(outboxdb.Moment)
	flags.Func(name, "", func(s string) error {
		moment.Set = true
		var err error
		if moment.Ago, err = parseSpan(s); err == nil && moment.Ago >= 0 {
			return nil
		}
		if moment.At, err = parseTime(s); err == nil {
			return nil
		}
		return errors.New("wants how long ago, such as 2h or 7d, or a time such as 2026-01-31T08:00:00Z")
	})
	return moment
}

func parseTime(s string) (time.Time, error) {
	if day, err := time.Parse(time.DateOnly, s); err == nil {
		return day, nil
	}
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return at, errors.New("wants a time such as 2026-01-31T08:00:00Z, or a day such as 2026-01-31")
	}
	return at, nil
}

// byFlags are who acts, and why.
func (t tools) byFlags(flags *flag.FlagSet) *outboxdb.By {
	by := &outboxdb.By{Who: cmp.Or(t.getenv("OUTFLOW_WHO"), whoAmI())}
	flags.Func("who", "", func(s string) error {
		if by.Who = s; s == "" {
			return errors.New("wants a name")
		}
		return nil
	})
	flags.StringVar(&by.Why, "why", "", "")
	return by
}

func whoAmI() string {
	name, host := "unknown", "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if h, err := os.Hostname(); err == nil {
		host = h
	}
	return name + "@" + host
}

// operator opens the table for an operator.
func (t tools) operator(ctx context.Context) (o *outboxdb.Operator, done func(), err error) {
	pool, err := openPool(ctx, t.getenv)
	if err != nil {
		return nil, nil, err
	}
	return outboxdb.NewOperator(pool), pool.Close, nil
}

func openPool(ctx context.Context, getenv func(string) string) (*pgxpool.Pool, error) {
	c, err := config.Database(getenv)
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.NewWithConfig(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	return pool, nil
}

// dialTimeout is how long Temporal may take to answer at all.
const dialTimeout = 5 * time.Second

// temporal connects to the namespace that the settings name.
func (t tools) temporal(ctx context.Context) (client.Client, control.Target, error) {
	options, err := config.Temporal(t.getenv)
	if err = errors.Join(err, config.Names(t.getenv)); err != nil {
		return nil, control.Target{}, err
	}
	target := targetOf(options)
	options.Logger = sdklog.NewStructuredLogger(slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	c, err := client.DialContext(ctx, options)
	if err != nil {
		return nil, target, fmt.Errorf("connecting to Temporal at %s: %w", target.Address, err)
	}
	return c, target, nil
}

func targetOf(options client.Options) control.Target {
	return control.Target{
		Address:   cmp.Or(options.HostPort, client.DefaultHostPort),
		Namespace: cmp.Or(options.Namespace, client.DefaultNamespace),
	}
}

func (t tools) outbox() string { return cmp.Or(t.getenv("OUTFLOW_OUTBOX"), outflow.DefaultOutbox) }

// lateRuns connects to Temporal when it is needed first: most acts need the
// table alone, and work without it. Where that fails it is not tried again.
type lateRuns struct {
	open func() (control.Runs, error)
	done *client.Client
}

func (t tools) runs(ctx context.Context) lateRuns {
	done := new(client.Client)
	return lateRuns{done: done, open: sync.OnceValues(func() (control.Runs, error) {
		c, _, err := t.temporal(ctx)
		if err != nil {
			return nil, err
		}
		*done = c
		return control.NewRuns(c), nil
	})}
}

func (l lateRuns) close() {
	if *l.done != nil {
		(*l.done).Close()
	}
}

func (l lateRuns) Describe(ctx context.Context, workflowID string) (control.Run, error) {
	runs, err := l.open()
	if err != nil {
		return control.Run{}, err
	}
	return runs.Describe(ctx, workflowID)
}

func (l lateRuns) Cancel(ctx context.Context, workflowID string) error {
	runs, err := l.open()
	if err != nil {
		return err
	}
	return runs.Cancel(ctx, workflowID)
}

func (l lateRuns) TryNow(ctx context.Context, workflowID string) error {
	runs, err := l.open()
	if err != nil {
		return err
	}
	return runs.TryNow(ctx, workflowID)
}

// mostAnswer bounds the line that answers a question.
const mostAnswer = 1000

// confirm asks the person at the terminal; elsewhere only -yes will do.
func (t tools) confirm(command, question string) error {
	if !t.terminal {
		return usageError("%s: wants -yes: %s", command, question)
	}
	fmt.Fprintf(t.stderr, "%s [y/N] ", question)
	line, err := bufio.NewReader(io.LimitReader(t.stdin, mostAnswer)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading the answer: %w", err)
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return nil
	}
	return program.ExitError{Code: exitRefused, Err: errors.New("nothing was done")}
}

// writeLine writes v as one line of JSON.
func writeLine(out io.Writer, v any) error { return json.NewEncoder(out).Encode(v) }

// writeDocument writes v as JSON for people and programs.
func writeDocument(out io.Writer, v any) error {
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

// short makes text one line of at most n visible characters.
func short(s string, n int) string {
	s = text.Visible(strings.Join(strings.Fields(s), " "))
	if runes := []rune(s); len(runes) > n {
		return string(runes[:n-1]) + "…"
	}
	return s
}

func orEmpty[T ~string](p *T) string {
	if p == nil {
		return ""
	}
	return string(*p)
}
