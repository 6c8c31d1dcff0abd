package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/outflowhq/outflow/devstack/proc"
)

const root = ".." // the root module's folder

// TestReadmeAgainstMakeDev runs the command of "make dev", and beside it, as they are written, the
// README's first message and its examples in SQL and Go. Then it kills the starter and sends again.
func TestReadmeAgainstMakeDev(t *testing.T) {
	readme := readRoot(t, "README.md")
	dir := rootOnly(t)
	buildInto(t, dir)
	dev := startDev(t, dir)
	eventually(t, "the banner", func() bool { return dev.said("bin/outflow status") })

	first := block(t, readme, "sh", "bin/outflow send")
	for line := range strings.Lines(first) {
		if !dev.said("\n    " + line) {
			t.Errorf("the banner of make dev does not say %q as the README does", line)
		}
	}
	if n := len(strings.Split(strings.TrimSpace(first), "\n")); n > 3 {
		t.Errorf("a first message takes %d commands, more than 3", n)
	}
	if out := shell(t, dir, first); !strings.Contains(out, "sqs://welcome-email") {
		t.Errorf("the status shows no message: %s", out)
	}
	env := dev.env(t)
	delivered := func(n int) {
		t.Helper()
		eventually(t, fmt.Sprint(n, " delivered messages"), func() bool {
			return scalar(t, env["DATABASE_URL"],
				"select count(*)::text from outbox.messages where state = 'delivered' and destination = 'sqs://welcome-email'") == strconv.Itoa(n)
		})
	}
	delivered(1)

	environment, _, _ := strings.Cut(first, "\n")
	shell(t, dir, environment+"\nbin/outflow doctor\nbin/outflow-starter -once") // the env file has all that they need
	sql := filepath.Join(dir, "readme.sql")
	write(t, sql, block(t, readme, "sql", "outbox.enqueue"), 0o644)
	shell(t, dir, environment+"\n"+`psql "$DATABASE_URL" -v ON_ERROR_STOP=1 < readme.sql`)
	delivered(2)

	program := filepath.Join(dir, "readme.go")
	waiting := readRoot(t, "docs/waiting.md")
	write(t, program, fmt.Sprintf(goProgram,
		block(t, readme, "go", "outboxdb.Enqueue("), block(t, waiting, "go", "waiter.Wait(")), 0o644)
	out := shell(t, dir, environment+"\ncd "+shellRoot(t)+" && GOWORK=off go run "+program)
	if !strings.Contains(out, "delivered") {
		t.Errorf("the README's program in Go ended with %s", out)
	}
	delivered(3)

	execute(t, env["DATABASE_URL"], "create role shop; create role ops") // the README's "roles of yours"
	pages := readme + waiting + readRoot(t, "docs/breakers.md") + readRoot(t, "docs/troubleshooting.md")
	for _, line := range commands(t, readme, pages) {
		shell(t, dir, environment+"\nPATH=$PWD/bin:$PATH\n"+line)
	}

	starter := regexp.MustCompile(`starter \(pid (\d+)\)`).FindStringSubmatch(dev.text())
	if starter == nil {
		t.Fatalf("the banner names no starter: %s", dev.text())
	}
	shell(t, dir, "kill -9 "+starter[1])
	eventually(t, "another starter", func() bool { return dev.said("starter  | runs again") })
	shell(t, dir, first)
	delivered(4)
	if code := dev.end(t, syscall.SIGINT); code != 0 {
		t.Errorf("Ctrl-C: exit code %d: %s", code, dev.text())
	}
}

// goProgram is a program around the README's lines.
const goProgram = `package main

import (
	"context"
	"fmt"
	"os"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/outboxdb/wait"
)

func deliver(ctx context.Context, pool *pgxpool.Pool) error {
	%s
	if err != nil {
		return err
	}
	id := ids[0]
	%s
	fmt.Println(outcome.State)
	return err
}

func main() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err == nil {
		err = deliver(ctx, pool)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
`

// development is "make dev", running.
type development struct {
	*instance
	file string
}

// startDev runs what make would run once all is built. It is no child of make, so that it ends with
// the test.
func startDev(t *testing.T, dir string) *development {
	t.Helper()
	command := output(t, exec.Command("make", "--no-print-directory", "-C", root, "-n", "-o", "build", "dev"))
	d := &development{file: filepath.Join(dir, "dev.out"), instance: &instance{dir: dir}}
	file, err := os.Create(d.file)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", "exec "+command)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, file, file
	if d.Process, err = proc.Start(cmd, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = d.Signal(syscall.SIGTERM) // mostly gone already
		<-d.Done()
		// For root that is a folder of its own.
		if data := regexp.MustCompile(`(?m)^Postgres's data +(\S+)$`).FindStringSubmatch(d.text()); data != nil {
			_ = os.RemoveAll(filepath.Dir(data[1]))
		}
		if t.Failed() {
			t.Log(d.text())
		}
	})
	return d
}

func (d *development) text() string {
	b, _ := os.ReadFile(d.file) // what it has not written it has not said
	return string(b)
}

func (d *development) said(text string) bool {
	select {
	case <-d.Done():
		return true // the test goes on, and fails with what was said
	default:
		return strings.Contains(d.text(), text)
	}
}

// buildInto builds the programs into dir/bin as make does; devstack is this test's binary.
func buildInto(t *testing.T, dir string) {
	t.Helper()
	bin := filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, folder := range map[string]string{
		"outflow": "cmd/outflow", "outflow-starter": "starter", "outflow-worker": "worker", "demo": "examples/signup/demo",
	} {
		build := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(bin, name), "./"+folder)
		build.Dir, build.Env = root, append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0")
		output(t, build)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(bin, "devstack"), "#!/bin/sh\n"+asDevstack+"=1 exec '"+self+"' \"$@\"\n", 0o755)
}

// TestTheFirstBuildSaysThatItTakesMinutes has a go command that does nothing.
func TestTheFirstBuildSaysThatItTakesMinutes(t *testing.T) {
	fake, bin := t.TempDir(), t.TempDir()
	write(t, filepath.Join(fake, "go"), "#!/bin/sh\necho built \"$@\"\n", 0o755)
	build := func() string {
		cmd := exec.Command("make", "-C", root, "build", "BIN="+bin)
		cmd.Env = append(os.Environ(), "PATH="+fake+":"+os.Getenv("PATH"))
		return output(t, cmd)
	}
	before, _, found := strings.Cut(build(), "\nbuilt ")
	if !found || !strings.Contains(before, "takes some minutes") {
		t.Errorf("before the first build make says only %q", before)
	}
	write(t, filepath.Join(bin, "devstack"), "", 0o755)
	if out := build(); strings.Contains(out, "takes some minutes") {
		t.Errorf("a later build says so, too: %s", out)
	}
}

// block is the README's code block of a language that contains text.
func block(t *testing.T, page, language, text string) string {
	t.Helper()
	for _, m := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(page, -1) {
		if strings.Contains(m[1], text) {
			return m[1]
		}
	}
	t.Fatalf("the README has no block in %s with %q", language, text)
	return ""
}

// commands are the lines of the README's block that prepares an outbox and of the block that
// retries dead messages, and the commands with flags in the pages' text, but those with an ID or a
// role to fill in.
func commands(t *testing.T, readme, pages string) []string {
	t.Helper()
	lines := regexp.MustCompile(`(?m)^outflow [^#\n]+`).FindAllString(block(t, readme, "sh", "outflow migrate up"), -1)
	if len(lines) < 3 {
		t.Errorf("the README prepares an outbox by %q alone", lines)
	}
	lines = append(lines, strings.TrimSpace(block(t, pages, "sh", "outflow retry -state dead")))
	for _, m := range regexp.MustCompile("`(outflow [^`…]*\\s-[^`…]*)`").FindAllStringSubmatch(pages, -1) {
		line := strings.Join(strings.Fields(m[1]), " ")
		if !strings.Contains(line, " ID") && !strings.Contains(line, " ROLE") {
			lines = append(lines, line)
		}
	}
	return lines
}

// shell runs lines as a person at a new shell in dir does.
func shell(t *testing.T, dir, lines string) string {
	t.Helper()
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", lines)
	cmd.Dir = dir
	for _, kv := range os.Environ() { // a person has no devstack around
		if !strings.HasPrefix(kv, "DEVSTACK_") && !strings.HasPrefix(kv, "DATABASE_URL=") &&
			!strings.HasPrefix(kv, "TEMPORAL_") &&
			!strings.HasPrefix(kv, "AWS_") && !strings.HasPrefix(kv, "OUTFLOW_") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	return output(t, cmd)
}

func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return string(out)
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func readRoot(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func shellRoot(t *testing.T) string {
	t.Helper()
	abs, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	return "'" + abs + "'"
}
