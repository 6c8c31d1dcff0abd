package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/outflowhq/outflow/outboxdb"
)

const grantsUsage = `outflow grants prints the GRANTs that give roles what their work with the outbox
needs, and no more. The roles must exist. It may be run again at any time: after
a migration, do.

Usage:
  outflow grants -producer shop -dispatcher outflow -operator ops
  outflow grants -apply …   give the rights, in one transaction, and print them

Flags, each as often as you like:
  -producer    a role that enqueues: it calls the functions and sees no table
  -dispatcher  a role of the daemons
  -operator    a role of people: reads everything, and changes what "outflow" changes

  -apply       run what is printed

The database is DATABASE_URL, or libpq's PGHOST, PGDATABASE, …; with -apply as
the owner of the outbox.
Exit codes: 0 printed (and given), 1 a role does not exist, or a right could not
be given: then none was, 2 a mistake on the command line.
`

// grants reads its flags; the rights are outboxdb's.
func grants(ctx context.Context, args []string, getenv func(string) string, stdout io.Writer) error {
	flags := flag.NewFlagSet("grants", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	var g outboxdb.Grants
	for name, roles := range map[string]*[]string{"producer": &g.Producers, "dispatcher": &g.Dispatchers, "operator": &g.Operators} {
		flags.Func(name, "", func(role string) error {
			if role == "" {
				return errors.New("wants a role's name")
			}
			*roles = append(*roles, role)
			return nil
		})
	}
	apply := flags.Bool("apply", false, "")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		_, err := fmt.Fprint(stdout, grantsUsage)
		return err
	case err != nil:
		return mistakenFlag(flags, err)
	case flags.NArg() > 0:
		return usageError("grants: unexpected argument %q", flags.Arg(0))
	case len(g.Statements()) == 0:
		return usageError("grants: wants -producer, -dispatcher or -operator with a role")
	}
	pool, err := openPool(ctx, getenv)
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
	for _, statement := range g.Statements() {
		if _, err := fmt.Fprintf(stdout, "%s;\n", statement); err != nil {
			return err
		}
	}
	return nil
}
