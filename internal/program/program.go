// Package program has the parts that Outflow's mains share: signals, exit codes, flags and the help
// that lists the settings.
//
// The invariant: only Main ends the process. Exit code 0 is success, 1 an error on standard error,
// 2 a mistake on the command line. A command may give other codes a meaning.
package program

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/internal/text"
)

// Run is a program without its process.
type Run func(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error

// UsageError is a mistake on the command line.
type UsageError struct {
	Err error
	// Help is printed after the error. Empty: a line says where the program's help is.
	Help string
}

func (e UsageError) Error() string { return e.Err.Error() }

// Unwrap returns the mistake.
func (e UsageError) Unwrap() error { return e.Err }

// ExitError ends the program with the command's own code. It is printed on standard error like any
// other error.
type ExitError struct {
	Code int
	Err  error
}

func (e ExitError) Error() string { return e.Err.Error() }

// Unwrap returns the error that is printed.
func (e ExitError) Unwrap() error { return e.Err }

// Main runs a program until it ends by itself or at a signal. A second signal ends the process at
// once.
func Main(name string, run Run) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(exitCode(name, run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr), os.Stderr))
}

func exitCode(name string, err error, stderr io.Writer) int {
	var usage UsageError
	message := ""
	if err != nil {
		message = text.Visible(err.Error()) // it quotes receivers, producers and settings
	}
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "%s: %s\n%s\n", name, message, cmp.Or(usage.Help, fmt.Sprintf("See %q.", name+" -help")))
		return 2
	}
	fmt.Fprintf(stderr, "%s: %s\n", name, message)
	var exit ExitError
	if errors.As(err, &exit) {
		return exit.Code
	}
	return 1
}

// Flags returns the flag set of a daemon, whose help lists the settings.
func Flags(name, does string) *flag.FlagSet {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.Bool("version", false, "print the version and exit")
	flags.Usage = func() {
		out := flags.Output()
		fmt.Fprintf(out, "%s %s\n\nFlags:\n", name, does)
		flags.PrintDefaults()
		fmt.Fprint(out, "\nSettings (environment):\n")
		WriteSettings(out)
	}
	return flags
}

// WriteSettings lists every setting with its default.
func WriteSettings(out io.Writer) {
	table := tabwriter.NewWriter(out, 2, 0, 2, ' ', 0)
	for _, s := range slices.Concat(config.Ecosystem, config.Settings) {
		fmt.Fprintf(table, "  %s\t%s\t%s\n", s.Name, s.Default, s.Meaning)
	}
	_ = table.Flush()
}

// Parse parses a daemon's flags. It returns flag.ErrHelp after it has printed the help or the
// version.
func Parse(flags *flag.FlagSet, args []string, stdout io.Writer) error {
	flags.SetOutput(io.Discard)
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		flags.SetOutput(stdout)
		flags.Usage()
		return flag.ErrHelp
	}
	if err != nil {
		var help strings.Builder
		flags.SetOutput(&help)
		flags.PrintDefaults()
		return UsageError{Err: err, Help: fmt.Sprintf("\nFlags:\n%sSee %q.", help.String(), flags.Name()+" -help")}
	}
	if flags.NArg() > 0 {
		return UsageError{Err: fmt.Errorf("unexpected argument %q", flags.Arg(0))}
	}
	if flags.Lookup("version").Value.String() == "true" {
		fmt.Fprintln(stdout, Version())
		return flag.ErrHelp
	}
	return nil
}

// Version returns the module version that the binary was built from.
func Version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "unknown"
}
