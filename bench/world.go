package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/dbos-inc/dbos-transact-golang/dbos"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outflowhq/outflow/outboxdb/migrate"
)

// world is what all variants share: one stack, one queue service, Outflow's programs as built, and
// where to say things.
type world struct {
	folder string // of the built programs; removed at the end
	self   string // this program
	env    []string
	stack  *child
	queue  *child
	stackReady
	queues queueClient
	dbos   dbos.Client
	stderr io.Writer
}

// newWorld builds and starts all. What it started is down again where it fails.
func newWorld(ctx context.Context, getenv func(string) string, stderr io.Writer) (_ *world, err error) {
	w := &world{stderr: stderr}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if w.self, err = os.Executable(); err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	if w.folder, err = os.MkdirTemp("", "outflow-bench-"); err != nil {
		return nil, fmt.Errorf("making a folder for the programs: %w", err)
	}
	// An empty HOME: no AWS profile and no Temporal configuration is found there.
	w.env = []string{"PATH=" + getenv("PATH"), "HOME=" + w.folder}
	fmt.Fprintln(stderr, "building the programs")
	if err := build(ctx, w.folder); err != nil {
		return nil, err
	}
	fmt.Fprintln(stderr, "bringing the stack up")
	if err := w.startShared(ctx); err != nil {
		return nil, err
	}
	if err := w.prepareDatabase(ctx); err != nil {
		return nil, err
	}
	return w, w.prepareNamespace(ctx)
}

// stackReady is what the stack's process reports.
type stackReady struct{ DatabaseURL, TemporalAddress string }

// startShared starts the stack and the queue service. A stack whose parent dies gets SIGTERM, and
// removes its data.
func (w *world) startShared(ctx context.Context) (err error) {
	if w.stack, err = start(w.env, syscall.SIGTERM, filepath.Join(w.folder, stackProgram)); err != nil {
		return err
	}
	if err := w.stack.read(ctx, &w.stackReady); err != nil {
		return err
	}
	if w.queue, err = start(w.env, syscall.SIGKILL, w.self, "part-queue"); err != nil {
		return err
	}
	var ready queueReady
	err = w.queue.read(ctx, &ready)
	w.queues = queueClient{url: ready.URL}
	return err
}

func (w *world) prepareDatabase(ctx context.Context) error {
	pool, err := pgxpool.New(ctx, w.DatabaseURL)
	if err != nil {
		return fmt.Errorf("opening the database: %w", err)
	}
	defer pool.Close()
	if _, err := migrate.Up(ctx, pool); err != nil {
		return err
	}
	if _, err := pool.Exec(ctx, `CREATE EXTENSION pg_stat_statements`); err != nil {
		return fmt.Errorf("preparing pg_stat_statements, which counts statements (Debian: postgresql-contrib): %w", err)
	}
	if _, err := pool.Exec(ctx, naiveSchema); err != nil {
		return fmt.Errorf("creating the naive outbox: %w", err)
	}
	return w.preparePeers(ctx, pool)
}

// prepareNamespace creates the search attributes, as users do. Without them Outflow's starts would be
// cheaper than they are for its users.
func (w *world) prepareNamespace(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, filepath.Join(w.folder, "outflow"), "setup")
	cmd.Env = w.trackedEnv("")
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("running outflow setup: %w\n%s", err, said)
	}
	return nil
}

func (w *world) close() error {
	errs := []error{w.closePeers()}
	for _, c := range []*child{w.queue, w.stack} {
		if c != nil {
			errs = append(errs, c.stop())
		}
	}
	if w.folder != "" {
		errs = append(errs, os.RemoveAll(w.folder))
	}
	return errors.Join(errs...)
}

// trackedEnv is the environment of Outflow's programs: where things are, and no setting that tunes
// them.
func (w *world) trackedEnv(taskQueue string) []string {
	return append([]string{
		"DATABASE_URL=" + w.DatabaseURL, "TEMPORAL_ADDRESS=" + w.TemporalAddress, "TEMPORAL_NAMESPACE=default",
		"AWS_REGION=us-east-1", "AWS_ACCESS_KEY_ID=bench", "AWS_SECRET_ACCESS_KEY=bench", "AWS_EC2_METADATA_DISABLED=true",
		"AWS_ENDPOINT_URL_SQS=" + w.queues.url, "OUTFLOW_TASK_QUEUE=" + taskQueue,
	}, w.env...)
}

// describe says on what a result was measured, as Postgres reports it.
func (w *world) describe(ctx context.Context, out io.Writer) error {
	conn, err := pgx.Connect(ctx, w.DatabaseURL)
	if err != nil {
		return fmt.Errorf("connecting to the database: %w", err)
	}
	defer conn.Close(ctx)
	var version, fsync, commit, pages string
	err = conn.QueryRow(ctx, `SELECT current_setting('server_version'), current_setting('fsync'),
		current_setting('synchronous_commit'), current_setting('full_page_writes')`).Scan(&version, &fsync, &commit, &pages)
	if err != nil {
		return fmt.Errorf("reading Postgres's settings: %w", err)
	}
	fmt.Fprintf(out, "Postgres %s: fsync=%s synchronous_commit=%s full_page_writes=%s\n", version, fsync, commit, pages)
	return nil
}

const rootModule = "github.com/outflowhq/outflow"

// stackProgram holds the stack.
const stackProgram = "bench-stack"

// programs are Outflow's and the stack, with the folders of their modules and how they are built:
// Outflow's as they are shipped, the stack as devstack, whose packages take minutes the first time.
var programs = map[string]struct{ module, build string }{
	"outflow":         {".", "-trimpath ./cmd/outflow"},
	"outflow-starter": {".", "-trimpath ./starter"},
	"outflow-worker":  {".", "-trimpath ./worker"},
	stackProgram:      {"bench", "./stack"},
}

// build builds the programs from the checkout that bench is run in.
func build(ctx context.Context, into string) error {
	root, err := findRoot()
	if err != nil {
		return err
	}
	for name, p := range programs {
		args := append([]string{"build", "-o", filepath.Join(into, name)}, strings.Fields(p.build)...)
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir, cmd.Env = filepath.Join(root, p.module), append(os.Environ(), "GOWORK=off")
		if p.module == "." {
			cmd.Env = append(cmd.Env, "CGO_ENABLED=0")
		}
		if said, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("building %s: %w\n%s", name, err, said)
		}
	}
	return nil
}

// findRoot is the nearest folder upwards that holds Outflow's own module.
func findRoot() (string, error) {
	folder, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding Outflow's checkout: %w", err)
	}
	for {
		file, err := os.ReadFile(filepath.Join(folder, "go.mod"))
		if err == nil && bytes.HasPrefix(file, []byte("module "+rootModule+"\n")) {
			return folder, nil
		}
		parent := filepath.Dir(folder)
		if parent == folder {
			return "", errors.New("finding Outflow's checkout: run bench inside of it")
		}
		folder = parent
	}
}
