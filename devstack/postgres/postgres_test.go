package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// folder is a data folder that Postgres's user can enter, which t.TempDir is not where the tests
// run as root.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "devstack-test-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "data")
}

func up(t *testing.T, o Options) *Cluster {
	t.Helper()
	c, err := Start(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Quit(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func do(t *testing.T, c *Cluster, sql string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	var value string
	if err := conn.QueryRow(ctx, sql).Scan(&value); err != nil && !errors.Is(err, pgx.ErrNoRows) {
		t.Fatalf("%s: %v", sql, err)
	}
	return value
}

func TestStopKillAndStartAgain(t *testing.T) {
	t.Run("durable", func(t *testing.T) { stopKillAndStartAgain(t, Options{Durable: true}, "on") })
	t.Run("crash-safe", func(t *testing.T) { stopKillAndStartAgain(t, Options{CrashSafe: true}, "off") })
}

func stopKillAndStartAgain(t *testing.T, o Options, fsync string) {
	o.Dir = folder(t)
	c := up(t, o)
	do(t, c, "create table kept as select 'a' as word")
	for i, end := range []func(*Cluster) error{(*Cluster).Stop, (*Cluster).Kill, (*Cluster).Quit} {
		if err := end(c); err != nil {
			t.Fatal(err)
		}
		select {
		case <-c.Done():
		default:
			t.Fatal("the postmaster still runs")
		}
		again := up(t, c.Options())
		if again.Port() != c.Port() {
			t.Errorf("it came back on port %d, not %d", again.Port(), c.Port())
		}
		c = again
		if got := do(t, c, "select count(*)::text from kept"); got != fmt.Sprint(i+1) {
			t.Errorf("after end %d: %s rows, want %d", i, got, i+1)
		}
		do(t, c, "insert into kept values ('b')")
	}
	if got := do(t, c, "show fsync"); got != fsync {
		t.Errorf("it has fsync %s, want %s", got, fsync)
	}
}

func TestStalePostmasterPidDoesNotBlock(t *testing.T) {
	c := up(t, Options{Dir: folder(t)})
	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	// The ID now belongs to another living process, as it soon does in a container: to our own
	// parent, say.
	file := filepath.Join(c.Options().Dir, "postmaster.pid")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("a killed cluster should have left its file: %v", err)
	}
	_, rest, _ := strings.Cut(string(b), "\n")
	if err := os.WriteFile(file, fmt.Appendf(nil, "%d\n%s", os.Getppid(), rest), 0o600); err != nil {
		t.Fatal(err)
	}
	do(t, up(t, c.Options()), "select 'up'")
}

func TestHalfMadeClusterIsMadeAgain(t *testing.T) {
	dir := folder(t)
	if err := os.MkdirAll(filepath.Join(dir+".init", "base"), 0o700); err != nil {
		t.Fatal(err)
	}
	do(t, up(t, Options{Dir: dir}), "select 'up'")
}

func TestTakenPortIsSaid(t *testing.T) {
	c := up(t, Options{Dir: folder(t)})
	_, err := Start(context.Background(), Options{Dir: folder(t), Port: c.Port()})
	if err == nil || !strings.Contains(err.Error(), fmt.Sprint(c.Port())) {
		t.Errorf("a second cluster on port %d: %v", c.Port(), err)
	}
}

func TestFailedStartShowsTheServersReason(t *testing.T) {
	c := up(t, Options{Dir: folder(t)})
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(c.Options().Dir, "global", "pg_control")); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(context.Background(), c.Options()); err == nil || !strings.Contains(err.Error(), "pg_control") {
		t.Errorf("a broken cluster: %v", err)
	}
}

func TestEnsureDatabaseByManyAtOnce(t *testing.T) {
	c := up(t, Options{Dir: folder(t)})
	errs := make(chan error)
	for range 4 {
		go func() { errs <- EnsureDatabase(context.Background(), c.URL("postgres"), "it's") }()
	}
	for range 4 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestVersionOf(t *testing.T) {
	for dir, want := range map[string]string{
		"/usr/lib/postgresql/17/bin": "17", "/opt/homebrew/opt/postgresql@16/bin": "16", "/usr/pgsql-15/bin": "15", "/usr/local/bin": "",
	} {
		if got := versionOf(dir); got != want {
			t.Errorf("versionOf(%s) = %q, want %q", dir, got, want)
		}
	}
}
