// Command soak passes many messages through outbox.messages by the store's own statements (no
// workflow each) while a purge deletes what was delivered some seconds ago, and says what a claim
// costs at the start and along the way. It fails where that has grown by more than a bound.
//
//	cd bench && go run ./soak -messages 5000000
//
// The invariants: it runs on a Postgres of its own, on the loopback address, which keeps every
// commit unless it is started otherwise; autovacuum is on, as the migrations set it; and what it
// measures is what the store sends.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outflowhq/outflow/devstack/postgres"
	"github.com/outflowhq/outflow/outboxdb/migrate"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends at once
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	default:
		fmt.Fprintln(os.Stderr, "soak:", err)
		var usage usageError
		if errors.As(err, &usage) {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

// usageError is a mistake on the command line.
type usageError struct{ error }

// settings are what the command line asks for.
type settings struct {
	messages, looks int
	backlog, stock  int
	keep, naptime   time.Duration
	// bound is how many times the start's pages a claim may touch later; 0 is any.
	bound   float64
	durable bool
	// defaults takes back what the migrations set of autovacuum.
	defaults bool
}

func parse(args []string, stdout io.Writer) (settings, error) {
	s := settings{durable: true}
	fs := flag.NewFlagSet("soak", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {} // the error names the mistake
	fs.IntVar(&s.messages, "messages", 5_000_000, "messages that pass through the table")
	fs.IntVar(&s.looks, "looks", 20, "how many times along the way it looks at what a claim costs")
	fs.IntVar(&s.backlog, "backlog", 10_000, "due messages that stand in the table at any time")
	fs.IntVar(&s.stock, "stock", 0, "final messages that stand in the table from the start to the end")
	fs.BoolVar(&s.defaults, "default-autovacuum", false, "leave autovacuum as Postgres has it by default")
	fs.DurationVar(&s.keep, "keep", 10*time.Second, "how long a delivered message stays")
	fs.DurationVar(&s.naptime, "naptime", 0, "Postgres's autovacuum_naptime; 0 is the server's default, a minute")
	fs.Float64Var(&s.bound, "bound", 1.5, "how many times the start's pages a claim may touch in the second half, beyond which soak fails; 0 is any")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprint(stdout, "soak passes messages through the outbox table and says what a claim costs along the way.\n\nFlags:\n")
			fs.SetOutput(stdout)
			fs.PrintDefaults()
			return s, err
		}
		return s, usageError{err}
	}
	var errs []error
	if fs.NArg() > 0 {
		errs = append(errs, fmt.Errorf("unexpected argument %q", fs.Arg(0)))
	}
	if s.looks < 2 {
		errs = append(errs, fmt.Errorf("-looks: wants 2 or more (got %d)", s.looks))
	}
	if s.backlog < claimRows {
		errs = append(errs, fmt.Errorf("-backlog: wants %d or more (got %d)", claimRows, s.backlog))
	}
	if least := 2 * s.backlog; s.messages < least {
		errs = append(errs, fmt.Errorf("-messages: wants twice the backlog or more, %d (got %d)", least, s.messages))
	}
	if s.stock < 0 {
		errs = append(errs, fmt.Errorf("-stock: wants 0 or more (got %d)", s.stock))
	}
	if s.keep < 0 || s.naptime < 0 {
		errs = append(errs, fmt.Errorf("-keep and -naptime: want no negative duration (got %s and %s)", s.keep,
			s.naptime))
	}
	if !(s.bound == 0 || s.bound >= 1 && s.bound <= math.MaxInt32) { // NaN is neither
		errs = append(errs, fmt.Errorf("-bound: wants 1 or more, or 0 for any (got %g)", s.bound))
	}
	if err := errors.Join(errs...); err != nil {
		return s, usageError{err}
	}
	return s, nil
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	s, err := parse(args, stdout)
	if err != nil {
		return err
	}
	looks, err := soakAlone(ctx, s, stdout)
	if len(looks) > 1 { // also of a run that was ended early
		summary(stdout, looks)
	}
	if err != nil {
		return err
	}
	return judge(looks, s.bound)
}

// soakAlone soaks on a Postgres that is there for that alone.
func soakAlone(ctx context.Context, s settings, out io.Writer) (looks []look, err error) {
	folder, err := os.MkdirTemp("", "outflow-soak-")
	if err != nil {
		return nil, fmt.Errorf("making a folder for Postgres: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	if err := os.Chmod(folder, 0o711); err != nil { // root's Postgres is another user's
		return nil, fmt.Errorf("making a folder for Postgres: %w", err)
	}
	cluster, err := postgres.Start(ctx, postgres.Options{Dir: filepath.Join(folder, "data"), Durable: s.durable})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, cluster.Stop()) }()
	pool, err := pgxpool.New(ctx, cluster.URL("postgres"))
	if err != nil {
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	defer pool.Close()
	if err := prepare(ctx, pool, s); err != nil {
		return nil, err
	}
	return soak(ctx, pool, s, out)
}

func prepare(ctx context.Context, pool *pgxpool.Pool, s settings) error {
	if _, err := pool.Exec(ctx, `CREATE EXTENSION pg_stat_statements`); err != nil {
		return fmt.Errorf("preparing pg_stat_statements, which counts what a claim reads (Debian: postgresql-contrib): %w", err)
	}
	if s.naptime > 0 {
		for _, statement := range []string{fmt.Sprintf(`ALTER SYSTEM SET autovacuum_naptime = '%d ms'`,
			s.naptime.Milliseconds()), `SELECT pg_reload_conf()`} {
			if _, err := pool.Exec(ctx, statement); err != nil {
				return fmt.Errorf("setting autovacuum_naptime: %w", err)
			}
		}
	}
	if _, err := migrate.Up(ctx, pool); err != nil {
		return err
	}
	if s.defaults {
		if _, err := pool.Exec(ctx, defaultAutovacuum); err != nil {
			return fmt.Errorf("taking back the autovacuum settings: %w", err)
		}
	}
	if _, err := pool.Exec(ctx, stock, s.stock); err != nil {
		return fmt.Errorf("laying up %d final messages: %w", s.stock, err)
	}
	return nil
}
