// Command outflow is the operator's command over the outbox.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/internal/program"
)

// commandLine is what every command works with.
type commandLine struct {
	getenv         func(string) string
	stdin          io.Reader
	stdout, stderr io.Writer
	// terminal says that somebody at stdin can answer a question.
	terminal bool
	// onScreen says that stdout is a terminal.
	onScreen bool
	// observeFlags is called with each command's flags; for tests.
	observeFlags func(*flag.FlagSet)
}

// command is one word after "outflow". Its run reads the flags, and prints usage where -help is
// among them.
type command struct {
	name, does, usage string
	run               func(ctx context.Context, cl commandLine, args []string) error
}

// commands are those for a running outbox, in the order of the help.
var commands = []command{
	{"status", "count the messages of each destination, show which fail", statusUsage, status},
	{"list", "list messages by state, destination, type and time", listUsage, list},
	{"show", "show one message, its run, and what operators did to it", showUsage, show},
	{"wait", "wait for the end of a message", waitUsage, waitForEnd},
	{"doctor", "look for what keeps messages from being delivered", doctorUsage, doctor},
	{"send", "enqueue one message", sendUsage, send},
	{"retry", "send dead messages again; make retrying ones try soon", retryUsage, retry},
	{"resend", "send copies of delivered messages", resendUsage, resend},
	{"skip", "let messages go on behind dead ones of their ordering key", skipUsage, skip},
	{"dismiss", "mark dead messages that nobody will send", dismissUsage, dismiss},
	{"cancel", "end pending messages", cancelUsage, cancel},
	{"redirect", "give messages another destination", redirectUsage, redirect},
	{"reschedule", "make pending messages due at another time", rescheduleUsage, reschedule},
	{"callback", "retry failed callbacks, set rules for them", callbackUsage, callback},
	{"route", "set where messages go that are enqueued by route", routeUsage, route},
	{"stream", "deliver a backlog by one run, or have starters do so", streamUsage, stream},
	{"purge", "delete final messages", purgeUsage, purge},
}

// preparing are the commands for an outbox that is not there yet.
var preparing = []command{
	{"migrate", "", migrateUsage, migrateSchema},
	{"grants", "", grantsUsage, grants},
	{"setup", "", setupUsage, setup},
}

// find returns the command of that name. Where there is none, the error names similar ones.
func find(name string) (command, error) {
	words := []string{"help", "version"}
	for _, c := range slices.Concat(commands, preparing) {
		if c.name == name {
			return c, nil
		}
		words = append(words, c.name)
	}
	return command{}, usageError("unknown command %q%s", name, didYouMean(name, words))
}

// usage is what "outflow help" prints.
var usage = func() string {
	var b strings.Builder
	b.WriteString(`outflow operates the transactional outbox.

Usage:
  outflow migrate up         apply the migrations that the database lacks
  outflow migrate status     list the migrations, applied or not
  outflow migrate down -yes  take back the newest migration (the first one drops every message)
  outflow grants             print or give the rights of producers, daemons and operators
  outflow setup              prepare the Temporal namespace: search attributes for the Web UI
`)
	for _, c := range commands {
		fmt.Fprintf(&b, "  outflow %-18s %s\n", c.name, c.does)
	}
	b.WriteString(`  outflow version            print the version
  outflow help [COMMAND]     print this, or a command's flags

"outflow COMMAND -help" has them, too. The database is DATABASE_URL, or libpq's PGHOST,
PGDATABASE, …; Temporal is TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, …; OUTFLOW_OUTBOX and
OUTFLOW_TASK_QUEUE as the daemons have them.
Exit codes: 0 success, 1 failure, 2 a mistake on the command line, 3 a message is not, or
does not become, what was asked for, 4 that was not known in the time to wait.
`)
	return b.String()
}()

func main() { program.Main("outflow", run) }

func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	for _, warning := range config.Unknown(getenv) {
		fmt.Fprintln(stderr, "outflow: warning:", warning)
	}
	shown, isFile := stdout.(*os.File)
	return commandLine{
		getenv: getenv, stdin: os.Stdin, terminal: isTerminal(os.Stdin),
		stdout: stdout, stderr: stderr, onScreen: isFile && isTerminal(shown),
	}.run(ctx, args)
}

func (cl commandLine) run(ctx context.Context, args []string) error {
	cl.stdout, cl.stderr = &screen{out: cl.stdout}, &screen{out: cl.stderr}
	if len(args) == 0 {
		return usageError("wants a command")
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		return cl.help(args[1:])
	case "version", "-version", "--version":
		_, err := fmt.Fprintln(cl.stdout, program.Version())
		return err
	}
	c, err := find(args[0])
	if err != nil {
		return err
	}
	err = c.run(ctx, cl, args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return nil // the usage is printed
	}
	if c.name != "migrate" { // which is the advice
		err = withAdvice(err)
	}
	return c.withHelp(err)
}

// help prints the usage of a command, or of all.
func (cl commandLine) help(words []string) error {
	text := usage
	switch {
	case len(words) == 0 || len(words) == 1 && (words[0] == "help" || words[0] == "version"):
	case len(words) == 1:
		c, err := find(words[0])
		if err != nil {
			return err
		}
		text = c.usage
	default:
		return usageError("help wants one command")
	}
	_, err := fmt.Fprint(cl.stdout, text)
	return err
}

// withHelp adds the command's flags to a mistake in them, and to any other mistake where to find
// them.
func (c command) withHelp(err error) error {
	var mistake program.UsageError
	if !errors.As(err, &mistake) {
		return err
	}
	help := fmt.Sprintf("See %q.", "outflow "+c.name+" -help")
	if errors.As(err, new(flagError)) {
		help = "\n" + flagsOf(c.usage) + help
	}
	return program.UsageError{Err: err, Help: help}
}
