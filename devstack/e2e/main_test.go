// Package e2e tests Outflow's programs as they are shipped: built binaries as
// processes, real Postgres, real Temporal, real signals.
//
// The invariant: nothing of Outflow runs inside the test process but what a
// producer or a consumer would call. Each test has a database, a task queue and
// a queue service of its own.
package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/outflowhq/outflow/devstack/stack"
)

var (
	shared   *stack.Stack
	binaries string // the folder of the built programs
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	folder, err := os.MkdirTemp("", "outflow-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	defer os.RemoveAll(folder)
	binaries = folder
	if err := build(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e: building the programs:", err)
		return 1
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if shared, err = stack.Up(ctx, stack.Options{Ephemeral: true, Durable: true}); err != nil {
		fmt.Fprintln(os.Stderr, "e2e: bringing the stack up:", err)
		return 1
	}
	defer func() {
		if err := shared.Down(); err != nil {
			fmt.Fprintln(os.Stderr, "e2e: taking the stack down:", err)
		}
	}()
	return m.Run()
}

// build builds the root module's programs afresh, so that no stale binary is
// tested.
func build() error {
	root, err := filepath.Abs("../..")
	if err != nil {
		return err
	}
	for name, folder := range map[string]string{"outflow": "./cmd/outflow", "outflow-starter": "./starter", "outflow-worker": "./worker"} {
		cmd := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(binaries, name), folder)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
	}
	return nil
}
