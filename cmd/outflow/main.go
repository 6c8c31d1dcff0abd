// Command outflow is the operator's command over the outbox.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/internal/program"
	"github.com/outflowhq/outflow/outboxdb/migrate"
)

// command is one word after "outflow": run reads the flags, and prints usage
// where -help is among them.
type command struct {
	name, does, usage string
	run               func(ctx context.Context, t tools, args []string) error
}

// commands are those for a running outbox, in the order in which help shows them.
var commands = []command{
	{"status", "count the messages of each destination, show which fail", statusUsage, status},
	{"list", "list messages by state, destination, type and time", listUsage, list},
	{"show", "show one message, its run, and what operators did to it", showUsage, show},
	{"wait", "wait for the end of a message", waitUsage, waitForEnd},
	{"doctor", "look for what keeps messages from being delivered", doctorUsage, doctor},
	{"send", "enqueue one message", sendUsage, send},
	{"retry", "send what was given up; make what is retried try soon", retryUsage, retry},
	{"resend", "send copies of delivered messages", resendUsage, resend},
	{"dismiss", "let dead messages go that nobody will send", dismissUsage, dismiss},
	{"cancel", "end pending messages", cancelUsage, cancel},
	{"redirect", "give messages another destination", redirectUsage, redirect},
	{"reschedule", "make pending messages due at another time", rescheduleUsage, reschedule},
	{"callback", "tell producers again how messages ended, set where they are told", callbackUsage, callback},
	{"purge", "delete messages that have ended", purgeUsage, purge},
}

// preparing are the commands for an outbox that is not there yet.
var preparing = []command{
	{"migrate", "", migrateUsage, func(ctx context.Context, t tools, args []string) error {
		return migrateSchema(ctx, args, t.getenv, t.stdout)
	}},
	{"grants", "", grantsUsage, func(ctx context.Context, t tools, args []string) error { return grants(ctx, args, t.getenv, t.stdout) }},
	{"setup", "", setupUsage, func(ctx context.Context, t tools, args []string) error { return setup(ctx, args, t.getenv, t.stdout) }},
}

// find returns the command of that name; where there is none, the mistake names what
// is near.
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
	return tools{
		getenv: getenv, stdin: os.Stdin, terminal: isTerminal(os.Stdin), stdout: stdout, stderr: stderr, onScreen: isFile && isTerminal(shown),
	}.run(ctx, args)
}

func (t tools) run(ctx context.Context, args []string) error {
	t.stdout, t.stderr = &screen{out: t.stdout}, &screen{out: t.stderr}
	if len(args) == 0 {
		return usageError("wants a command")
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		return t.help(args[1:])
	case "version", "-version", "--version":
		_, err := fmt.Fprintln(t.stdout, program.Version())
		return err
	}
	c, err := find(args[0])
	if err != nil {
		return err
	}
	err = c.run(ctx, t, args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return nil // it is printed
	}
	if c.name != "migrate" { // it is the advice
		err = advised(err)
	}
	return c.helped(err)
}

// help prints the usage of a command, or of all.
func (t tools) help(words []string) error {
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
	_, err := fmt.Fprint(t.stdout, text)
	return err
}

// helped adds the command's flags to a mistake in them, and to any other where they
// stand.
func (c command) helped(err error) error {
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

// flagsOf are the paragraphs of a usage that list flags.
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

// flagError is a flag that there is not, or a value that it does not take.
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

// advised adds what to do to an error of the database that does not say it.
func advised(err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return err
	}
	switch pg.Code { // https://www.postgresql.org/docs/current/errcodes-appendix.html
	case "3F000", "42P01", "42703", "42883": // no such schema, table, column, function
		return fmt.Errorf("%w: the schema is missing or older than this command: run \"outflow migrate up\"", err)
	case "42501":
		return fmt.Errorf("%w: \"outflow grants -operator ROLE\" prints the rights that it needs", err)
	}
	return err
}

func usageError(format string, args ...any) error {
	return program.UsageError{Err: fmt.Errorf(format, args...)}
}

const migrateUsage = `outflow migrate makes the schema "outbox" what this command and its daemons need.

Usage:
  outflow migrate up         apply the migrations that the database lacks
  outflow migrate status     list the migrations, applied or not
  outflow migrate down -yes  take back the newest migration (the first one drops every message)

Needs the database alone, with the right to create in it. Exit codes: 0 done, 1 failure,
2 a mistake on the command line.
`

// migrateSchema checks its words before it touches the database.
func migrateSchema(ctx context.Context, args []string, getenv func(string) string, stdout io.Writer) error {
	commands := map[string]func(context.Context, *pgxpool.Pool, io.Writer) error{
		"up": migrateUp, "status": migrateStatus, "down": migrateDown,
	}
	if len(args) > 0 && slices.Contains([]string{"-h", "-help", "--help"}, args[0]) {
		_, err := fmt.Fprint(stdout, migrateUsage)
		return err
	}
	if len(args) == 0 {
		return usageError("migrate wants up, status or down")
	}
	if commands[args[0]] == nil {
		return usageError("migrate wants up, status or down%s", didYouMean(args[0], slices.Collect(maps.Keys(commands))))
	}
	rest := args[1:]
	if args[0] == "down" {
		if len(rest) == 0 || rest[0] != "-yes" && rest[0] != "--yes" {
			return usageError("migrate down wants -yes: it can drop messages that are not delivered")
		}
		rest = rest[1:]
	}
	if len(rest) > 0 {
		return usageError("migrate %s: unexpected argument %q", args[0], rest[0])
	}
	pool, err := openPool(ctx, getenv)
	if err != nil {
		return err
	}
	defer pool.Close()
	return commands[args[0]](ctx, pool, stdout)
}

func migrateUp(ctx context.Context, pool *pgxpool.Pool, out io.Writer) error {
	applied, err := migrate.Up(ctx, pool)
	for _, m := range applied {
		if m.Adopted {
			fmt.Fprintln(out, "adopted", m.Name, "(another tool had applied it)")
			continue
		}
		fmt.Fprintln(out, "applied", m.Name)
	}
	if err == nil && len(applied) == 0 {
		fmt.Fprintln(out, "up to date")
	}
	return err
}

func migrateStatus(ctx context.Context, pool *pgxpool.Pool, out io.Writer) error {
	status, err := migrate.Status(ctx, pool)
	for _, m := range status {
		applied := "not applied"
		if !m.AppliedAt.IsZero() {
			applied = "applied " + m.AppliedAt.UTC().Format("2006-01-02 15:04:05Z")
		}
		fmt.Fprintf(out, "%-24s %s\n", m.Name, applied)
	}
	return err
}

func migrateDown(ctx context.Context, pool *pgxpool.Pool, out io.Writer) error {
	undone, err := migrate.Down(ctx, pool)
	switch {
	case err != nil:
		return err
	case undone == nil:
		fmt.Fprintln(out, "nothing is applied")
	default:
		fmt.Fprintln(out, "took back", undone.Name)
	}
	return nil
}
