package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
)

// own runs Outflow for messages that are sent from another shell, until ctx ends.
func (d *demo) own(ctx context.Context, envFile string) error {
	if err := d.startOutflow(ctx); err != nil {
		return err
	}
	d.family.allReady(nil)
	outflow := d.fromHere("outflow")
	d.family.print("", fmt.Sprintf(`
Running: %s. A process that ends is started again; Ctrl-C stops all.

    Temporal Web UI   %s

In another shell, in this folder, the first message of your own is:

    set -a; . %s; set +a
    %[4]s send -destination sqs://welcome-email -type user-registered -payload '{"user": 42}'
    %[4]s status
`, d.family, d.webUI, envFile, outflow))
	<-ctx.Done()
	return nil
}

// fromHere returns a program's path for a shell in the working directory.
func (d *demo) fromHere(name string) string {
	path := d.program(name)
	here, err := filepath.Abs(".")
	if err != nil {
		return path
	}
	if short, err := filepath.Rel(here, path); err == nil && !strings.HasPrefix(short, "..") {
		return short
	}
	return path
}
