package main

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/program"
	"github.com/outflowhq/outflow/operator"
)

var (
	someID = uuid.MustParse("0198f3a2-5b1c-7000-8000-000000000001")
	someAt = time.Date(2026, 1, 31, 8, 0, 0, 0, time.UTC)
)

func ptr[T any](v T) *T { return &v }

// code is the exit code of a command that returned err.
func code(err error) int {
	var exit program.ExitError
	var mistake program.UsageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.Code
	case errors.As(err, &mistake):
		return 2
	}
	return 1
}

var errAway = errors.New("connection refused")

func statusOf(phase string) operator.MessageStatus {
	m := operator.MessageStatus{
		ID: someID, Destination: "sqs://orders", Type: "order-placed", Phase: phase, State: outflow.State(phase), Generation: 2, Attempts: 3,
		ContentType: "application/json", PayloadBytes: 11, EnqueuedAt: someAt, DueAt: someAt, AvailableAt: someAt,
	}
	if m.State.Final() {
		m.FinishedAt, m.LastError = ptr(someAt.Add(time.Second)), ptr("no such queue")
	} else {
		m.State = outflow.Pending
	}
	return m
}

// at is a command line with somebody at the terminal who answers.
func at(answers string, out, errs io.Writer) commandLine {
	return commandLine{getenv: func(string) string { return "" }, stdin: strings.NewReader(answers), terminal: true,
		stdout: out, stderr: errs}
}

// with runs a command line with these settings only, without a terminal.
func with(t *testing.T, settings map[string]string, stdin, line string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	err = commandLine{getenv: func(name string) string { return settings[name] }, stdin: strings.NewReader(stdin),
		stdout: &out, stderr: &errs}.
		run(t.Context(), strings.Fields(line))
	return out.String(), errs.String(), err
}
