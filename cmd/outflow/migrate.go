package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outflowhq/outflow/outboxdb/migrate"
)

const migrateUsage = `outflow migrate makes the schema "outbox" what this command and its daemons need.

Usage:
  outflow migrate up         apply the migrations that the database lacks
  outflow migrate status     list the migrations, applied or not
  outflow migrate down -yes  take back the newest migration (the first one drops every message)

Needs only the database, with the right to create in it. Exit codes: 0 done, 1 failure,
2 a mistake on the command line.
`

// migrateSchema checks its arguments before it opens the database.
func migrateSchema(ctx context.Context, cl commandLine, args []string) error {
	commands := map[string]func(context.Context, *pgxpool.Pool, io.Writer) error{
		"up": migrateUp, "status": migrateStatus, "down": migrateDown,
	}
	if len(args) > 0 && slices.Contains([]string{"-h", "-help", "--help"}, args[0]) {
		_, err := fmt.Fprint(cl.stdout, migrateUsage)
		return err
	}
	if len(args) == 0 {
		return usageError("migrate wants up, status or down")
	}
	if commands[args[0]] == nil {
		return usageError("migrate wants up, status or down%s",
			didYouMean(args[0], slices.Collect(maps.Keys(commands))))
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
	pool, err := openPool(ctx, cl.getenv)
	if err != nil {
		return err
	}
	defer pool.Close()
	return commands[args[0]](ctx, pool, cl.stdout)
}

func migrateUp(ctx context.Context, pool *pgxpool.Pool, out io.Writer) error {
	applied, err := migrate.Up(ctx, pool)
	for _, m := range applied {
		if m.Adopted {
			fmt.Fprintln(out, "adopted", m.Name, "(another tool had applied it)")
			continue
		}
		fmt.Fprintln(out, "applied", m.Name)
	}
	if err == nil && len(applied) == 0 {
		fmt.Fprintln(out, "up to date")
	}
	return err
}

func migrateStatus(ctx context.Context, pool *pgxpool.Pool, out io.Writer) error {
	status, err := migrate.Status(ctx, pool)
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
	undone, err := migrate.Down(ctx, pool)
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
