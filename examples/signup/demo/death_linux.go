package main

import "syscall"

// setDeathSignal lets the kernel kill the child when the demo is killed itself.
func setDeathSignal(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
