package main

import (
	"bytes"
	"context"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow/devstack/proc"
)

// asDevstack makes the test binary behave as devstack itself: the tests run real processes of it.
const asDevstack = "DEVSTACK_TEST_AS_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asDevstack) != "" {
		os.Unsetenv(asDevstack)
		main()
	}
	os.Exit(m.Run())
}

// instance is one devstack process.
type instance struct {
	*proc.Process
	out, err *bytes.Buffer // to be read after its end only
	dir      string
}

func launch(t *testing.T, dir string, env []string, args ...string) *instance {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	i := &instance{out: new(bytes.Buffer), err: new(bytes.Buffer), dir: dir}
	cmd := exec.Command(self, args...)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), asDevstack+"=1"), env...)
	cmd.Stdout, cmd.Stderr = i.out, i.err
	if i.Process, err = proc.Start(cmd, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = i.Signal(syscall.SIGTERM) // mostly gone already
		<-i.Done()
	})
	return i
}

// env waits for the env file and reads it as a shell does.
func (i *instance) env(t *testing.T) map[string]string {
	t.Helper()
	file := filepath.Join(i.dir, ".devstack", "env")
	eventually(t, "the env file", func() bool {
		select {
		case <-i.Done():
			t.Fatalf("devstack ended: %v\n%s", i.Err(), i.err)
		default:
		}
		_, err := os.Stat(file)
		return err == nil
	})
	cmd := exec.Command("sh", "-c", "set -a; . "+file+"; set +a; env")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("sourcing the env file: %v", err)
	}
	vars := map[string]string{}
	for line := range strings.Lines(string(out)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		vars[name] = value
	}
	return vars
}

// end sends the signal and waits; it returns the exit code.
func (i *instance) end(t *testing.T, sig syscall.Signal) int {
	t.Helper()
	if err := i.Signal(sig); err != nil {
		t.Fatal(err)
	}
	return i.wait(t)
}

func (i *instance) wait(t *testing.T) int {
	t.Helper()
	select {
	case <-i.Done():
	case <-time.After(time.Minute):
		t.Fatalf("devstack did not end: %s", i.err)
	}
	code, err := exitCodeOf(i.Err())
	if err != nil {
		t.Fatal(err)
	}
	return code
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waiting for %s: not after a minute", what)
		}
	}
}

func scalar(t *testing.T, url, sql string) string {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	var value string
	if err := conn.QueryRow(ctx, sql).Scan(&value); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return value
}

func postgresDir(t *testing.T, url string) string { return scalar(t, url, "show data_directory") }

// servers counts the living processes that name the folder on their command line.
func servers(dir string) int {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	n := 0
	for _, file := range files {
		if b, err := os.ReadFile(file); err == nil && strings.Contains(string(b), dir) {
			n++
		}
	}
	return n
}

func closed(address string) bool {
	conn, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return true
	}
	conn.Close()
	return false
}

// addresses are the four that an env file names.
func addresses(t *testing.T, env map[string]string) []string {
	t.Helper()
	list := []string{env["DEVSTACK_TEMPORAL_ADDRESS"]}
	for _, name := range []string{"DEVSTACK_DATABASE_URL", "DEVSTACK_SQS_ENDPOINT", "DEVSTACK_TEMPORAL_UI"} {
		u, err := url.Parse(env[name])
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, u.Host)
	}
	return list
}

// rootOnly is a folder that only its owner can enter, as a clone in root's home is.
func rootOnly(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}
