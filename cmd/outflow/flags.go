package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/user"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/program"
	"github.com/outflowhq/outflow/operator"
)

// flagError is a flag that does not exist, or a value that a flag does not accept.
type flagError struct{ error }

// mistakenFlag is the mistake that parsing flags came to.
func mistakenFlag(flags *flag.FlagSet, err error) error {
	near := ""
	if name, unknown := strings.CutPrefix(err.Error(), "flag provided but not defined: -"); unknown {
		var names []string
		flags.VisitAll(func(f *flag.Flag) { names = append(names, "-"+f.Name) })
		near = didYouMean("-"+name, names)
	}
	return usageError("%s: %w%s", flags.Name(), flagError{err}, near)
}

func usageError(format string, args ...any) error {
	return program.UsageError{Err: fmt.Errorf(format, args...)}
}

// flagsOf returns the paragraphs of a usage that list flags.
func flagsOf(usage string) string {
	var b strings.Builder
	listing := false
	for line := range strings.Lines(usage) {
		heading := strings.HasPrefix(line, "Flags") || strings.HasPrefix(line, "Filters")
		listing = heading || listing && (line == "\n" || strings.HasPrefix(line, " "))
		if listing {
			b.WriteString(line)
		}
	}
	return b.String()
}

// parse reads flags, which may stand before and after words, and returns the words. Where help is
// asked for, it prints usage and returns flag.ErrHelp.
func (cl commandLine) parse(flags *flag.FlagSet, usage string, args []string) ([]string, error) {
	flags.SetOutput(io.Discard)
	if cl.observeFlags != nil {
		cl.observeFlags(flags)
	}
	var words []string
	for {
		switch err := flags.Parse(args); {
		case errors.Is(err, flag.ErrHelp):
			fmt.Fprint(cl.stdout, usage)
			return nil, err
		case err != nil:
			return nil, mistakenFlag(flags, err)
		case flags.NArg() == 0:
			return words, nil
		}
		words, args = append(words, flags.Arg(0)), flags.Args()[1:]
	}
}

// parseFlagsOnly is parse for a command without words.
func (cl commandLine) parseFlagsOnly(flags *flag.FlagSet, usage string, args []string) error {
	words, err := cl.parse(flags, usage, args)
	if err == nil && len(words) > 0 {
		return usageError("%s: unexpected argument %q", flags.Name(), words[0])
	}
	return err
}

// given returns the names of the flags that are set.
func given(flags *flag.FlagSet) map[string]bool {
	names := map[string]bool{}
	flags.Visit(func(f *flag.Flag) { names[f.Name] = true })
	return names
}

func readIDs(command string, words []string) ([]uuid.UUID, error) {
	ids := make([]uuid.UUID, 0, len(words))
	seen := map[uuid.UUID]bool{}
	for _, word := range words {
		id, err := uuid.Parse(word)
		if err != nil {
			return nil, usageError("%s: wants message IDs such as 0198f3a2-5b1c-7000-8000-000000000001 (got %q)",
				command, word)
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

// rateFlag reads a number of messages a second: 0, which is any, where it is not given, and -1
// where the number is no rate.
func rateFlag(flags *flag.FlagSet, rate *float64) {
	flags.Func("rate", "", func(s string) error {
		n, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return errors.New("wants a number")
		}
		if *rate = n; !(n > 0 && n <= math.MaxInt32) { // false for NaN
			*rate = -1
		}
		return nil
	})
}

// destinationFlag reads a destination and makes it canonical.
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

// typeFlag reads a message type to select by. To select any, leave the flag out: a script's empty
// variable must not mean that.
func typeFlag(flags *flag.FlagSet, into *string) {
	flags.Func("type", "", func(s string) error {
		if s == "" {
			return errors.New("wants a message type")
		}
		*into = s
		return nil
	})
}

// groupFlag reads the ID that an enqueue by route returned.
func groupFlag(flags *flag.FlagSet, into *uuid.UUID) {
	flags.Func("group", "", func(s string) (err error) {
		if *into, err = uuid.Parse(s); err != nil || *into == uuid.Nil {
			return errors.New("wants the ID that an enqueue by route returned")
		}
		return nil
	})
}

// durationFlag reads a duration, also in days, of at least min.
func durationFlag(flags *flag.FlagSet, name string, min time.Duration) *time.Duration {
	d := new(time.Duration)
	flags.Func(name, "", func(s string) (err error) {
		if *d, err = parseDuration(s); err == nil && *d < min {
			err = fmt.Errorf("wants at least %s", min)
		}
		return err
	})
	return d
}

var days = regexp.MustCompile(`^(\d{1,5})d$`)

func parseDuration(s string) (time.Duration, error) {
	if m := days.FindStringSubmatch(s); m != nil {
		n, err := strconv.Atoi(m[1])
		return time.Duration(n) * 24 * time.Hour, err
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, errors.New("wants a duration such as 90s, 10m, 36h or 7d")
	}
	return d, nil
}

// timeBoundFlag reads a time, or how long ago.
func timeBoundFlag(flags *flag.FlagSet, name string) *operator.TimeBound {
	bound := new(operator.TimeBound)
	flags.Func(name, "", func(s string) error {
		bound.Set = true
		var err error
		if bound.Ago, err = parseDuration(s); err == nil && bound.Ago >= 0 {
			return nil
		}
		if bound.At, err = parseTime(s); err == nil {
			return nil
		}
		return errors.New("wants how long ago, such as 2h or 7d, or a time such as 2026-01-31T08:00:00Z")
	})
	return bound
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

// actorFlags read who acts, and why.
func (cl commandLine) actorFlags(flags *flag.FlagSet) *operator.Actor {
	by := &operator.Actor{Who: cmp.Or(cl.getenv("OUTFLOW_WHO"), whoAmI())}
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
