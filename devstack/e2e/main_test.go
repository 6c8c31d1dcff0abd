// Package e2e tests Outflow's programs as they are shipped: built binaries as
// processes, real Postgres, real Temporal, real signals, and faults of each.
//
// The invariant: nothing of Outflow runs inside the test process but what a
// producer or a consumer would call. Each test has a database, a task queue and
// a queue service of its own, and reaches all of them through links of its own.
package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/outflowhq/outflow/devstack/faults"
)

var (
	shared   *faults.Stack
	binaries string // the folder of the built programs
)

func TestMain(m *testing.M) {
	faults.ServeEngine()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	folder, err := os.MkdirTemp("", "outflow-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	defer os.RemoveAll(folder)
	binaries = folder
	root, err := filepath.Abs("../..")
	if err == nil {
		err = faults.Build(root, binaries)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if shared, err = faults.Up(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "e2e: bringing the stack up:", err)
		return 1
	}
	code := m.Run()
	if err := shared.Down(false); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return max(code, 1)
	}
	return code
}
