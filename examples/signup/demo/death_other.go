//go:build !linux

package main

import "syscall"

// setDeathSignal does nothing: only Linux has such a signal. Elsewhere a demo that is killed
// leaves its children running.
func setDeathSignal(*syscall.SysProcAttr) {}
