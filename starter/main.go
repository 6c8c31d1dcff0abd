// Command starter claims due messages, starts their workflows, and runs their fast paths in the
// same process. Run as many as you like.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/internal/program"
	"github.com/outflowhq/outflow/internal/service"
)

func main() {
	program.CollectGarbageSeldom(os.Getenv)
	program.Main("outflow-starter", run)
}

func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	flags := program.Flags("outflow-starter", "claims due messages, starts their workflows, and runs their fast paths.")
	once := flags.Bool("once", false, "deliver what is due, print what is left, and exit")
	limit := flags.Duration("time-limit", time.Minute,
		"with -once: how long to wait for due messages; those under way then end, in 45 s at most")
	if err := program.Parse(flags, args, stdout); err != nil {
		return err
	}
	limited := false
	flags.Visit(func(f *flag.Flag) { limited = limited || f.Name == "time-limit" })
	if limited && !*once {
		return program.UsageError{Err: errors.New("-time-limit: is for a single pass: give -once beside it")}
	}
	if *limit <= 0 {
		return program.UsageError{Err: fmt.Errorf("-time-limit: wants more than 0, such as 1m (got %s)", *limit)}
	}
	c, err := config.Load(ctx, getenv)
	if err != nil {
		return err
	}
	log := c.Logger(stderr)
	if *once {
		return service.Once(ctx, c, *limit, stdout, log)
	}
	return service.Starter(ctx, c, log)
}
