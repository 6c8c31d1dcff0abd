package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/program"
	"github.com/outflowhq/outflow/operator"
	"github.com/outflowhq/outflow/outboxdb/wait"
)

const waitUsage = `outflow wait waits for the end of a message; its exit code says how the message ended.

Usage:
  outflow wait ID [-timeout 30s] [-json]

The ID that an enqueue by route returned waits for the ends of all its messages.

Flags:
  -timeout  how long to wait (default 30s); 0 for one look
  -json     a message a line, as it stands then, as outflow list prints it

Needs only the database, with an operator's role (outflow grants -operator). Exit codes:
0 delivered, 1 failure, 2 a mistake on the command line, 3 dead, expired, cancelled, or
there is no such message, 4 pending after -timeout, with the last error if there is one.
Of several messages the worst counts: 4, then 3.
`

func waitForEnd(ctx context.Context, cl commandLine, args []string) error {
	flags := flag.NewFlagSet("wait", flag.ContinueOnError)
	timeout := flags.Duration("timeout", 30*time.Second, "")
	asJSON := flags.Bool("json", false, "")
	words, err := cl.parse(flags, waitUsage, args)
	if err != nil {
		return err
	}
	if *timeout < 0 {
		return usageError("wait: -timeout wants 0 or more")
	}
	id, err := readID("wait", words)
	if err != nil {
		return err
	}
	pool, err := openPool(ctx, cl.getenv)
	if err != nil {
		return err
	}
	defer pool.Close()
	// The Waiter would only log why it polls, which changes no answer.
	waiter := wait.New(pool, wait.LogTo(slog.New(slog.DiscardHandler)))
	defer waiter.Close()
	o := operator.New(pool, nil, cl.outbox())
	return waitFor(ctx, o.Messages, waiter.WaitAll, id, *timeout, *asJSON, cl.stdout)
}

type (
	// readMessages is operator.Operator.Messages.
	readMessages = func(ctx context.Context, id uuid.UUID) ([]operator.MessageStatus, error)
	// awaitEnds is wait.Waiter.WaitAll.
	awaitEnds = func(ctx context.Context, id uuid.UUID) ([]outflow.Outcome, error)
)

// waitFor waits again where somebody started a message again right after its end.
func waitFor(
	ctx context.Context, read readMessages, await awaitEnds, id uuid.UUID,
	timeout time.Duration, asJSON bool, out io.Writer,
) error {
	inTime, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		messages, err := read(ctx, id)
		if errors.Is(err, outflow.ErrNotFound) {
			return program.ExitError{Code: exitRefused, Err: fmt.Errorf("message %s: not found", id)}
		}
		if err != nil {
			return err
		}
		pending := func(m operator.MessageStatus) bool { return !m.State.Final() }
		if !slices.ContainsFunc(messages, pending) || inTime.Err() != nil && ctx.Err() == nil {
			return writeEnds(messages, asJSON, out)
		}
		_, err = await(inTime, id)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("waiting for message %s: %w", id, context.Cause(ctx))
		case err != nil && inTime.Err() == nil && !errors.Is(err, outflow.ErrNotFound):
			return err
		}
	}
}

// writeEnds prints how the messages stand, and turns that into an exit code.
func writeEnds(messages []operator.MessageStatus, asJSON bool, out io.Writer) error {
	var worst program.ExitError
	failed := 0
	for _, m := range messages {
		if err := writeEnd(m, asJSON, out); err != nil {
			return err
		}
		end := endOf(m)
		if end.Code > worst.Code {
			worst = end
		}
		if end.Err != nil {
			failed++
		}
	}
	switch {
	case failed == 0:
		return nil
	case len(messages) > 1:
		worst.Err = fmt.Errorf("%d of %d messages are not delivered: %w", failed, len(messages), worst.Err)
	}
	return worst
}

func writeEnd(m operator.MessageStatus, asJSON bool, out io.Writer) error {
	if asJSON {
		return writeLine(out, m)
	}
	destination := ""
	if m.GroupID != nil {
		destination = "  " + outflow.DisplayDestination(m.Destination)
	}
	_, err := fmt.Fprintf(out, "%s  %s%s\n", m.ID, m.Phase, destination)
	return err
}

// endOf is the exit that a message makes; zero where it is delivered.
func endOf(m operator.MessageStatus) program.ExitError {
	switch {
	case m.State == outflow.Delivered:
		return program.ExitError{}
	case m.State.Final():
		reason := strings.TrimPrefix(orEmpty(m.LastError), string(m.State)+": ") // some errors begin with the state
		return program.ExitError{Code: exitRefused,
			Err: fmt.Errorf("message %s: %s: %s", m.ID, m.State, short(reason, 300))}
	}
	pending := fmt.Errorf("message %s: still pending (%s)", m.ID, m.Phase)
	if m.LastError != nil {
		pending = fmt.Errorf("%w: %s", pending, short(*m.LastError, 300))
	}
	return program.ExitError{Code: exitUndecided, Err: pending}
}
