package main

import "syscall"

// setDeathSignal makes the kernel kill the child when the demo is killed.
func setDeathSignal(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
