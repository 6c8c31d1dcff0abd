package main

import (
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// giveTerminal makes the child's group the terminal's foreground group, where we are that group
// now: a Ctrl-C then reaches the command once, from the terminal, and not a second time from us
// (for many programs a second one means "at once"). The returned function takes the terminal back.
func giveTerminal(attr *syscall.SysProcAttr) (restore func()) {
	tty, ours := int(os.Stdin.Fd()), unix.Getpgrp()
	if foreground, err := unix.IoctlGetInt(tty, unix.TIOCGPGRP); err != nil || foreground != ours {
		return func() {}
	}
	attr.Foreground, attr.Ctty = true, tty
	return func() {
		// A background process that asks for the terminal is stopped, unless it ignores this
		// signal.
		signal.Ignore(syscall.SIGTTOU)
		defer signal.Reset(syscall.SIGTTOU)
		_ = unix.IoctlSetPointerInt(tty, unix.TIOCSPGRP, ours) // a terminal that is gone needs no owner
	}
}
