package main

import (
	"context"
	"errors"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow/devstack/ports"
)

func TestKilledStackLeavesNothing(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has a death signal")
	}
	first := launch(t, rootOnly(t), nil, "up", "--ephemeral")
	env := first.env(t)
	dir := postgresDir(t, env["DATABASE_URL"])
	if servers(dir) == 0 {
		t.Fatalf("no process names %s: the test can't see Postgres", dir)
	}
	first.end(t, syscall.SIGKILL)
	eventually(t, "the end of Postgres", func() bool { return servers(dir) == 0 })
	for _, address := range addresses(t, env) {
		eventually(t, "the end of what listens on "+address, func() bool { return closed(address) })
	}
	if _, err := os.Stat(dir); err != nil {
		t.Fatalf("the killed stack's data should still be there: %v", err)
	}

	second := launch(t, rootOnly(t), nil, "up", "--ephemeral")
	live := postgresDir(t, second.env(t)["DATABASE_URL"])
	third := launch(t, rootOnly(t), nil, "up", "--ephemeral")
	third.env(t)
	if _, err := os.Stat(filepath.Dir(dir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the killed stack's data was not cleaned up: %v", err)
	}
	if _, err := os.Stat(live); err != nil {
		t.Errorf("a living stack's data was taken for a dead one's: %v", err)
	}
	if code := second.end(t, os.Interrupt.(syscall.Signal)); code != 0 {
		t.Errorf("Ctrl-C: exit code %d: %s", code, second.err)
	}
	if _, err := os.Stat(filepath.Dir(live)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an ephemeral stack left its data: %v", err)
	}
	if _, err := os.Stat(filepath.Join(second.dir, ".devstack", "env")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a stopped stack left its env file: %v", err)
	}
}

func TestDataAndPortsOutliveRestartAndKill(t *testing.T) {
	dir := rootOnly(t)
	args := []string{"up", "--data", "data"}
	first := launch(t, dir, nil, args...)
	env := first.env(t)
	data := postgresDir(t, env["DATABASE_URL"])
	t.Cleanup(func() {
		if !strings.HasPrefix(data, dir) { // root, in a folder of its own
			_ = os.RemoveAll(filepath.Dir(data))
		}
	})
	execute(t, env["DATABASE_URL"], "create table kept as select 'once' as word")
	if code := first.end(t, syscall.SIGTERM); code != 0 {
		t.Fatalf("stopping: exit code %d: %s", code, first.err)
	}

	second := launch(t, dir, nil, args...)
	if again := second.env(t); !maps.Equal(again, env) {
		t.Errorf("a restart has another environment: %v, not %v", again, env)
	}
	if got := scalar(t, env["DATABASE_URL"], "select word from kept"); got != "once" {
		t.Errorf("after a restart: %q", got)
	}
	execute(t, env["DATABASE_URL"], "insert into kept values ('twice')")
	other := launch(t, dir, nil, "up", "--data", "data", "--env-file", "other")
	if code := other.wait(t); code != 1 || !strings.Contains(other.err.String(), "another devstack") {
		t.Errorf("a second stack on the same data: exit code %d: %s", code, other.err)
	}
	second.end(t, syscall.SIGKILL)
	// A killed stack leaves its env file, which is not to be taken for the next one's.
	if err := os.Remove(filepath.Join(dir, ".devstack", "env")); err != nil {
		t.Fatal(err)
	}

	ui := strings.TrimPrefix(env["OUTFLOW_TEMPORAL_UI"], "http://")
	eventually(t, "the end of the Web UI", func() bool { return closed(ui) })
	holder, err := net.Listen("tcp", ui)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	third := launch(t, dir, nil, args...)
	after := third.env(t)
	if got := scalar(t, after["DATABASE_URL"],
		"select string_agg(word, ' ' order by word) from kept"); got != "once twice" {
		t.Errorf("after a kill: %q", got)
	}
	third.end(t, syscall.SIGTERM)
	if !strings.Contains(third.out.String(), "port "+strings.TrimPrefix(ui, ports.Loopback+":")+" is taken") {
		t.Errorf("a port that is taken is not said: %s", third.out)
	}
	for name, value := range env {
		if moved := strings.HasSuffix(name, "TEMPORAL_UI"); moved == (after[name] == value) {
			t.Errorf("%s was %s, and is %s, while the Web UI's port alone was taken", name, value, after[name])
		}
	}
}

// TestAskedPort: a port that somebody asked for is had, or the start fails.
func TestAskedPort(t *testing.T) {
	port, err := ports.Free()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"up", "--ephemeral", "--postgres-port",
		strings.TrimPrefix(ports.Address(port), ports.Loopback+":")}
	other, err := net.Listen("tcp", ports.Address(port))
	if err != nil {
		t.Fatal(err)
	}
	dir := rootOnly(t)
	refused := launch(t, dir, nil, args...)
	if code := refused.wait(t); code != 1 || !strings.Contains(refused.err.String(), "taking port") {
		t.Errorf("exit code %d: %s", code, refused.err)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if env := launch(t, dir, nil, args...).env(t); !strings.Contains(env["DATABASE_URL"], ports.Address(port)) {
		t.Errorf("%s is not on the port that was given, %d", env["DATABASE_URL"], port)
	}
}

func execute(t *testing.T, url, sql string) {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql); err != nil {
		t.Fatal(err)
	}
}
