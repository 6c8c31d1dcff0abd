package main

import (
	"context"
	"errors"
	"io"

	"github.com/outflowhq/outflow/devstack/stack"
)

// stackReady is what the stack's process reports.
type stackReady struct{ DatabaseURL, TemporalAddress string }

// stackPart holds the devstack, so that the CPU of Temporal is that of one process. Its Postgres
// keeps every commit.
func stackPart(ctx context.Context, _ []string, stdout io.Writer) error {
	s, err := stack.Up(ctx, stack.Options{Ephemeral: true, Durable: true})
	if err != nil {
		return err
	}
	err = reportLine(stdout, stackReady{DatabaseURL: s.DatabaseURL(), TemporalAddress: s.TemporalAddress()})
	if err == nil {
		select {
		case <-ctx.Done():
		case <-s.PostgresDone():
			err = errors.New("postgres ended by itself")
		}
	}
	return errors.Join(err, s.Down())
}
