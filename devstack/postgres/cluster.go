// Package postgres runs one Postgres cluster of its own from the binaries it finds on the machine.
//
// The invariants: the cluster listens on the loopback address alone; it dies with the process that
// started it, also on SIGKILL (Linux); a data folder has at most one cluster; and what a cluster
// that was killed leaves behind never keeps the next one from starting.
package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/outflowhq/outflow/devstack/ports"
	"github.com/outflowhq/outflow/devstack/proc"
)

// Superuser is the only role of a new cluster. Loopback connections are trusted; the password is
// there for tools that insist on one.
const (
	Superuser = "outflow"
	password  = "outflow"
)

const (
	startTimeout = time.Minute
	stopTimeout  = 30 * time.Second
	pollEvery    = 20 * time.Millisecond
)

// Options says what to start. Only Dir is required.
type Options struct {
	// Dir is the data folder, made where it is missing. For root it must be one that Postgres's
	// user can enter: CanLiveIn.
	Dir string
	// Port is the TCP port, 0 for a free one.
	Port int
	// Durable keeps every commit through a crash of Postgres or the machine. Without it fsync,
	// full_page_writes and synchronous_commit are off: faster, and a killed Postgres may lose
	// commits of its last second.
	Durable bool
	// CrashSafe, without Durable, keeps every commit through a crash of Postgres, and not of the
	// machine: fsync stays off.
	CrashSafe bool
	// LogFile gets the server's own log; default Dir + ".log".
	LogFile string
	// Settings are the server's own, such as "wal_level=replica", beside those that it has here.
	Settings []string
}

// Cluster is a running Postgres.
type Cluster struct {
	options Options
	process *proc.Process
}

// Start makes the cluster where the folder has none, starts it and returns once a query was
// answered. It waits for the end of an earlier cluster of the same folder that is still going down.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	if o.LogFile == "" {
		o.LogFile = o.Dir + ".log"
	}
	who, err := runAs()
	if err != nil {
		return nil, err
	}
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return nil, fmt.Errorf("resolving the data folder: %w", err)
	}
	bin, err := binaries(majorOf(o.Dir), who)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := clearStale(ctx, o.Dir); err != nil {
		return nil, err
	}
	// Now: an earlier cluster that goes down holds the port until it is gone.
	if o.Port, err = ports.Or(o.Port); err != nil {
		return nil, fmt.Errorf("choosing Postgres's port: %w", err)
	}
	if err := initialise(ctx, bin, who, o); err != nil {
		return nil, err
	}
	c := &Cluster{options: o}
	for {
		err := c.launch(ctx, bin, who)
		if err == nil {
			return c, nil
		}
		if !errors.Is(err, errStillHeld) {
			return nil, err
		}
		// Backends of a killed postmaster hold its shared memory until they notice its end.
		if !pause(ctx) {
			return nil, fmt.Errorf("waiting for an earlier Postgres of %s to end: %w", o.Dir, err)
		}
	}
}

// majorOf is the version that made the cluster in dir, "" where there is none.
func majorOf(dir string) string {
	b, err := os.ReadFile(filepath.Join(dir, "PG_VERSION"))
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(b))
}

// initialise runs initdb beside the folder and renames the result, so that half a cluster is never
// taken for a whole one.
func initialise(ctx context.Context, bin string, who *account, o Options) error {
	if majorOf(o.Dir) != "" {
		return nil
	}
	parent := filepath.Dir(o.Dir)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return fmt.Errorf("making the data folder: %w", err)
	}
	if !who.canEnter(parent) {
		return fmt.Errorf("making a cluster in %s: Postgres's user can't enter that folder", o.Dir)
	}
	fresh := o.Dir + ".init"
	if err := os.RemoveAll(fresh); err != nil {
		return fmt.Errorf("removing a half-made cluster: %w", err)
	}
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return fmt.Errorf("making the data folder: %w", err)
	}
	if err := who.own(fresh); err != nil {
		return fmt.Errorf("giving the data folder to Postgres's user: %w", err)
	}
	args := []string{"-D", fresh, "-U", Superuser, "--auth=trust", "--encoding=UTF8", "--no-locale"}
	if !o.Durable {
		args = append(args, "--no-sync")
	}
	if err := runInitdb(ctx, bin, who, o.LogFile, args); err != nil {
		return err
	}
	if err := os.Rename(fresh, o.Dir); err != nil {
		return fmt.Errorf("placing the new cluster: %w", err)
	}
	return nil
}

func runInitdb(ctx context.Context, bin string, who *account, logFile string, args []string) error {
	log, err := openLog(logFile)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(bin, "initdb"), args...)
	cmd.Dir, cmd.Env = "/", childEnv()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = who.attr()
	p, err := proc.Start(cmd, syscall.SIGKILL)
	if err != nil {
		return err
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		_ = p.Signal(syscall.SIGKILL) // it may have ended by itself; Err says so
	}
	if err := p.Err(); err != nil {
		return fmt.Errorf("making a Postgres cluster: %w: %s", errors.Join(err, ctx.Err()), proc.LogSince(logFile, 0))
	}
	return nil
}

// URL is a connection string for the database, as the superuser.
func (c *Cluster) URL(database string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(Superuser, password), Host: ports.Address(c.options.Port),
		Path: "/" + database, RawQuery: "sslmode=disable"}
	return u.String()
}

// Port is the TCP port on the loopback address.
func (c *Cluster) Port() int { return c.options.Port }

// Options are those the cluster was started with, its port and its paths filled in: Start with them
// brings a stopped cluster back on the same data and port.
func (c *Cluster) Options() Options { return c.options }

// Pid is the postmaster's process ID.
func (c *Cluster) Pid() int { return c.process.Pid() }

// Done is closed when the postmaster has ended, for whatever reason.
func (c *Cluster) Done() <-chan struct{} { return c.process.Done() }

// Stop shuts down orderly: connections are cut, everything committed is written. A cluster that is
// gone is no error.
func (c *Cluster) Stop() error { return c.end(syscall.SIGINT) }

// Quit ends at once without a checkpoint; the next start recovers from the log.
func (c *Cluster) Quit() error { return c.end(syscall.SIGQUIT) }

func (c *Cluster) end(sig syscall.Signal) error {
	if err := c.process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stopping postgres: %w", err)
	}
	select {
	case <-c.Done():
		return nil
	case <-time.After(stopTimeout):
		return errors.Join(fmt.Errorf("stopping postgres: not done after %s", stopTimeout), c.Kill())
	}
}
