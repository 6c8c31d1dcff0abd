//go:build !linux

package main

import "syscall"

// setDeathSignal does nothing: only Linux has such a signal. Elsewhere the
// children end with an orderly stop of the demo.
func setDeathSignal(*syscall.SysProcAttr) {}
