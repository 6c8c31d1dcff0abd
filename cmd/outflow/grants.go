package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow/operator"
)

const grantsUsage = `outflow grants prints the GRANTs that give roles the rights which their work with
the outbox needs, and no more. The roles must exist. Run it again after a migration; it may be run
at any time.

Usage:
  outflow grants -producer shop -dispatcher outflow -operator ops
  outflow grants -apply …   give the rights, in one transaction, and print them

Flags, each as often as you like:
  -producer    a role that enqueues: it calls the functions and can read no table
  -dispatcher  a role of the daemons
  -operator    a role of people: reads everything, and changes what "outflow" changes

  -apply       run the printed statements

The database is DATABASE_URL, or libpq's PGHOST, PGDATABASE, …; with -apply as
the owner of the outbox.
Exit codes: 0 printed (and given), 1 a role does not exist, or a right could not be
given: then no right was given, 2 a mistake on the command line.
`

func grants(ctx context.Context, cl commandLine, args []string) error {
	flags := flag.NewFlagSet("grants", flag.ContinueOnError)
	var g operator.Grants
	for name, roles := range map[string]*[]string{
		"producer": &g.Producers, "dispatcher": &g.Dispatchers, "operator": &g.Operators,
	} {
		flags.Func(name, "", func(role string) error {
			if role == "" {
				return errors.New("wants a role's name")
			}
			*roles = append(*roles, role)
			return nil
		})
	}
	apply := flags.Bool("apply", false, "")
	switch err := cl.parseFlagsOnly(flags, grantsUsage, args); {
	case err != nil:
		return err
	case len(g.Statements()) == 0:
		return usageError("grants: wants -producer, -dispatcher or -operator with a role")
	}
	pool, err := openPool(ctx, cl.getenv)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := g.CheckRoles(ctx, pool); err != nil {
		return err
	}
	if *apply {
		if err := g.Apply(ctx, pool); err != nil {
			return err
		}
	}
	_, err = fmt.Fprint(cl.stdout, printed(g))
	return err
}

// printed are the statements, and what no GRANT can give, as psql takes them.
func printed(g operator.Grants) string {
	var text strings.Builder
	for _, statement := range g.Statements() {
		text.WriteString(statement + ";\n")
	}
	for _, role := range g.Dispatchers {
		fmt.Fprintf(&text, "-- For OUTFLOW_TRIGGER=wal, as a superuser: ALTER ROLE %[1]s REPLICATION;\n"+
			"-- on Amazon RDS: GRANT rds_replication TO %[1]s;\n", pgx.Identifier{role}.Sanitize())
	}
	return text.String()
}
