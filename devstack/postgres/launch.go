package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow/devstack/ports"
	"github.com/outflowhq/outflow/devstack/proc"
)

var errStillHeld = errors.New("the data folder is still held by processes of an earlier Postgres")

// launch starts the server and waits until it answers a query.
func (c *Cluster) launch(ctx context.Context, bin string, who *account) error {
	log, err := openLog(c.options.LogFile)
	if err != nil {
		return err
	}
	defer log.Close()
	from, err := log.Seek(0, 2)
	if err != nil {
		return fmt.Errorf("reading the end of Postgres's log: %w", err)
	}
	cmd := exec.Command(filepath.Join(bin, "postgres"),
		append([]string{"-D", c.options.Dir}, settings(c.options, bin)...)...)
	cmd.Dir, cmd.Env = "/", childEnv()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = who.attr()
	// A signal to devstack's process group must not end the server under the command that still
	// uses it.
	cmd.SysProcAttr.Setpgid = true
	// SIGQUIT is Postgres's immediate shutdown: the postmaster ends its backends too, which SIGKILL
	// would leave to notice by themselves.
	if c.process, err = proc.Start(cmd, syscall.SIGQUIT); err != nil {
		return err
	}
	if err := c.awaitQuery(ctx); err != nil {
		_ = c.Quit() // the reason why it did not come up is the error to see
		said := proc.LogSince(c.options.LogFile, from)
		if strings.Contains(said, "shared memory block") {
			return errStillHeld
		}
		return fmt.Errorf("starting postgres: %w: %s", err, said)
	}
	return nil
}

// settings are the server's, on its command line, so that nothing in the data folder has to be
// edited.
func settings(o Options, bin string) []string {
	pairs := []string{
		"listen_addresses=" + ports.Loopback, "port=" + strconv.Itoa(o.Port),
		"unix_socket_directories=",                                            // none: a socket's path is limited to about a hundred bytes, and nobody needs one
		"max_connections=300",                                                 // Temporal's pools, the tests' pools, and room
		"wal_level=logical", "max_wal_senders=50", "max_replication_slots=50", // each test may read the log
		"wal_writer_delay=10ms", // without synchronous_commit, the log's readers wait for it
		"shared_buffers=256MB",
		"max_prepared_transactions=50", "track_commit_timestamp=on", // tests commit in two phases, and compare commits
		"timezone=UTC", "log_timezone=UTC", "log_min_messages=warning", "log_checkpoints=off",
	}
	if hasLibrary(bin, "pg_stat_statements") {
		pairs = append(pairs, "shared_preload_libraries=pg_stat_statements")
	}
	switch {
	case o.Durable:
	case o.CrashSafe:
		pairs = append(pairs, "fsync=off", "full_page_writes=off") // what was written outlives the process
	default:
		pairs = append(pairs, "fsync=off", "synchronous_commit=off", "full_page_writes=off")
	}
	pairs = append(pairs, o.Settings...) // the last one of a name counts
	args := make([]string, 0, 2*len(pairs))
	for _, p := range pairs {
		args = append(args, "-c", p)
	}
	return args
}

func (c *Cluster) awaitQuery(ctx context.Context) error {
	for {
		err := query(ctx, c.URL("postgres"))
		if err == nil {
			return nil
		}
		select {
		case <-c.Done():
			return fmt.Errorf("the server ended: %w", errors.Join(c.process.Err(), err))
		default:
		}
		if !pause(ctx) {
			return errors.Join(ctx.Err(), err)
		}
	}
}

func query(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var one int
	return conn.QueryRow(ctx, "select 1").Scan(&one)
}

// EnsureDatabase creates the database on the server that url points to, unless it is there. Several
// callers at a time are fine.
func EnsureDatabase(ctx context.Context, url, name string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("connecting to create database %s: %w", name, err)
	}
	defer conn.Close(ctx)
	var exists bool
	if err := conn.QueryRow(ctx, "select exists (select from pg_database where datname = $1)",
		name).Scan(&exists); err != nil {
		return fmt.Errorf("looking for database %s: %w", name, err)
	}
	if exists {
		return nil
	}
	if _, err := conn.Exec(ctx, "create database "+pgx.Identifier{name}.Sanitize()); err != nil && !isDuplicate(err) {
		return fmt.Errorf("creating database %s: %w", name, err)
	}
	return nil
}

// childEnv keeps ambient PG* settings away from the server and initdb, and the locale's language
// out of their logs.
func childEnv() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC", "TMPDIR=" + os.TempDir()}
}

func openLog(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("making the folder of Postgres's log: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening Postgres's log: %w", err)
	}
	return f, nil
}

// pause waits one step of a polled condition; false means that ctx is over.
func pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(pollEvery):
		return true
	}
}
