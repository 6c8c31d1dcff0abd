package panics_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/panics"
)

func caught(do func()) (p *panics.Error) {
	defer panics.Catch(func(e *panics.Error) { p = e })
	do()
	return nil
}

func TestCatch(t *testing.T) {
	require.Nil(t, caught(func() {}))

	p := caught(func() { panic("boom") })
	require.EqualError(t, p, "panicked: a string, not shown because it may quote the message")
	require.Equal(t, "boom", p.Value)
	require.Contains(t, string(p.Stack), "panics_test.go")
	require.NoError(t, p.Unwrap())

	boom := errors.New("boom")
	p = caught(func() { panic(boom) })
	require.ErrorIs(t, p, boom)
	require.NotContains(t, p.Error(), "boom")

	p = caught(func() { var none []int; none[0]++ })
	require.EqualError(t, p, "panicked: runtime error: index out of range [0] with length 0")
	require.EqualError(t, panics.OfPublisher("sending", p),
		"sending: the publisher "+p.Error()+" (the log has the stack; "+
			"fix the publisher and retry the message, or correct the message and enqueue it again)")
}
