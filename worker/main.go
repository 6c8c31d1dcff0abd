// Command worker is the fleet's worker: it takes the workflows that were not started eagerly, and
// every durable attempt. Run as many as you like.
package main

import (
	"context"
	"io"
	"os"

	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/internal/program"
	"github.com/outflowhq/outflow/internal/service"
)

func main() {
	program.CollectGarbageSeldom(os.Getenv)
	program.Main("outflow-worker", run)
}

func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	flags := program.Flags("outflow-worker", "runs deliveries that are not on a starter's fast path.")
	if err := program.Parse(flags, args, stdout); err != nil {
		return err
	}
	c, err := config.Load(ctx, getenv)
	if err != nil {
		return err
	}
	return service.Worker(ctx, c, c.Logger(stderr))
}
