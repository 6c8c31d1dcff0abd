// Command outflow is the operator's command over the outbox.
package main

import (
	"context"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/internal/program"
	"github.com/outflowhq/outflow/outboxdb"
)

const usage = `outflow operates the transactional outbox.

Usage:
  outflow migrate up        apply the migrations that the database lacks
  outflow migrate status    list the migrations, applied or not
  outflow migrate down -yes take back the newest migration (the first one drops every message)
  outflow grants            print or give the rights of producers, daemons and operators
  outflow setup             prepare the Temporal namespace: search attributes for the Web UI
  outflow version           print the version
  outflow help              print this

The database is DATABASE_URL, or libpq's PGHOST, PGDATABASE, …
Temporal is TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, …: "outflow setup -help".
Exit codes: 0 success, 1 failure, 2 a mistake on the command line.
`

func main() { program.Main("outflow", run) }

func run(ctx context.Context, args []string, getenv func(string) string, stdout, _ io.Writer) error {
	if len(args) == 0 {
		return usageError("wants a command")
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		_, err := fmt.Fprint(stdout, usage)
		return err
	case "version", "-version", "--version":
		_, err := fmt.Fprintln(stdout, program.Version())
		return err
	case "setup":
		return setup(ctx, args[1:], getenv, stdout)
	case "grants":
		return grants(ctx, args[1:], getenv, stdout)
	case "migrate":
		return migrate(ctx, args[1:], getenv, stdout)
	}
	return usageError("unknown command %q", args[0])
}

func usageError(format string, args ...any) error {
	return program.UsageError{Err: fmt.Errorf(format, args...)}
}

func openPool(ctx context.Context, getenv func(string) string) (*pgxpool.Pool, error) {
	c, err := config.Database(getenv)
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.NewWithConfig(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	return pool, nil
}

// migrate checks its words before it touches the database.
func migrate(ctx context.Context, args []string, getenv func(string) string, stdout io.Writer) error {
	commands := map[string]func(context.Context, *pgxpool.Pool, io.Writer) error{
		"up": migrateUp, "status": migrateStatus, "down": migrateDown,
	}
	if len(args) == 0 || commands[args[0]] == nil {
		return usageError("migrate wants up, status or down")
	}
	rest := args[1:]
	if args[0] == "down" {
		if len(rest) == 0 || rest[0] != "-yes" && rest[0] != "--yes" {
			return usageError("migrate down wants -yes: it can drop messages that are not delivered")
		}
		rest = rest[1:]
	}
	if len(rest) > 0 {
		return usageError("migrate %s: unexpected argument %q", args[0], rest[0])
	}
	pool, err := openPool(ctx, getenv)
	if err != nil {
		return err
	}
	defer pool.Close()
	return commands[args[0]](ctx, pool, stdout)
}

func migrateUp(ctx context.Context, pool *pgxpool.Pool, out io.Writer) error {
	applied, err := outboxdb.MigrateUp(ctx, pool)
	for _, m := range applied {
		fmt.Fprintln(out, "applied", m.Name)
	}
	if err == nil && len(applied) == 0 {
		fmt.Fprintln(out, "up to date")
	}
	return err
}

func migrateStatus(ctx context.Context, pool *pgxpool.Pool, out io.Writer) error {
	status, err := outboxdb.Migrations(ctx, pool)
	for _, m := range status {
		applied := "not applied"
		if !m.AppliedAt.IsZero() {
			applied = "applied " + m.AppliedAt.UTC().Format("2006-01-02 15:04:05Z")
		}
		fmt.Fprintf(out, "%-24s %s\n", m.Name, applied)
	}
	return err
}

func migrateDown(ctx context.Context, pool *pgxpool.Pool, out io.Writer) error {
	undone, err := outboxdb.MigrateDown(ctx, pool)
	switch {
	case err != nil:
		return err
	case undone == nil:
		fmt.Fprintln(out, "nothing is applied")
	default:
		fmt.Fprintln(out, "took back", undone.Name)
	}
	return nil
}
