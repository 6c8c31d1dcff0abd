package faults

import (
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// echo is a part that says everything back.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
	return l.Addr().String()
}

func link(t *testing.T) *Link {
	t.Helper()
	l, err := NewLink("echo", echo(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

func dial(t *testing.T, l *Link) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", l.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// ask sends a byte and returns the error of waiting for it to come back.
func ask(t *testing.T, c net.Conn) error {
	t.Helper()
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	if err := c.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	_, err := io.ReadFull(c, make([]byte, 1))
	return err
}

func sound(t *testing.T, c net.Conn) {
	t.Helper()
	if err := ask(t, c); err != nil {
		t.Errorf("a sound connection: %v", err)
	}
}

func silent(t *testing.T, c net.Conn) {
	t.Helper()
	if err := ask(t, c); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a silent connection: %v, want no answer and no end", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestDeafConnectionStaysAndOthersWork(t *testing.T) {
	l := link(t)
	old := dial(t, l)
	sound(t, old)
	must(t, l.Deafen())
	silent(t, old)
	sound(t, dial(t, l))
	must(t, l.Heal())
	silent(t, old)
	// Not even another fault on top wakes it.
	must(t, l.Slow(time.Millisecond))
	silent(t, old)
	must(t, l.Heal())
	silent(t, old)
	sound(t, dial(t, l))
}

func TestCutRefusesUntilHealed(t *testing.T) {
	l := link(t)
	old := dial(t, l)
	sound(t, old)
	must(t, l.Cut())
	if err := ask(t, old); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a cut connection: %v, want its end", err)
	}
	if c, err := net.Dial("tcp", l.Address()); err == nil {
		c.Close()
		t.Error("a cut link took a connection")
	}
	must(t, l.Heal())
	sound(t, dial(t, l))
	must(t, l.Heal()) // a sound link is none the worse for it
}

func TestSwallowIsSilentUntilHealed(t *testing.T) {
	l := link(t)
	old := dial(t, l)
	must(t, l.Swallow())
	silent(t, old)
	silent(t, dial(t, l))
	must(t, l.Heal())
	sound(t, dial(t, l))
}

func TestResetActsAndAnswersNothing(t *testing.T) {
	l := link(t)
	must(t, l.Reset())
	if err := ask(t, dial(t, l)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a reset connection: %v, want its end", err)
	}
	must(t, l.Heal())
	sound(t, dial(t, l))
}

func TestSlowAnswersLate(t *testing.T) {
	l := link(t)
	must(t, l.Slow(100*time.Millisecond))
	began := time.Now()
	sound(t, dial(t, l))
	if took := time.Since(began); took < 75*time.Millisecond {
		t.Errorf("answered after %s", took)
	}
}

// TestATakenPortIsKnown: then NewLink tries another one.
func TestATakenPortIsKnown(t *testing.T) {
	first := link(t)
	_, port, err := net.SplitHostPort(first.Address())
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openLink("echo", echo(t), number); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a second link on port %d: %v", number, err)
	}
}
