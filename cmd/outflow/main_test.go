package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/program"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/outboxdb/migrate"
)

// call runs the command with a database URL and returns what it prints.
func call(url string, args ...string) (string, error) {
	var stdout bytes.Buffer
	getenv := func(name string) string {
		if name == "DATABASE_URL" {
			return url
		}
		return ""
	}
	err := run(context.Background(), args, getenv, &stdout, io.Discard)
	return stdout.String(), err
}

// nowhere is a database that can't be reached: who touches it fails otherwise.
const nowhere = "postgres://nobody@127.0.0.1:1/nothing?connect_timeout=1"

func TestUsageErrorsComeBeforeTheDatabase(t *testing.T) {
	for _, c := range []struct {
		args  []string
		wants string
	}{
		{nil, "wants a command"},
		{[]string{"deliver"}, `unknown command "deliver"`},
		{[]string{"migrate"}, "up, status or down"},
		{[]string{"migrate", "sideways"}, "up, status or down"},
		{[]string{"migrate", "up", "now"}, `unexpected argument "now"`},
		{[]string{"migrate", "status", "-v"}, `unexpected argument "-v"`},
		{[]string{"migrate", "down"}, "-yes"},
		{[]string{"migrate", "down", "yes"}, "-yes"},
		{[]string{"migrate", "down", "-yes", "really"}, `unexpected argument "really"`},
	} {
		out, err := call(nowhere, c.args...)
		var usage program.UsageError
		require.ErrorAs(t, err, &usage, "%v", c.args)
		assert.ErrorContains(t, err, c.wants)
		assert.Empty(t, out)
	}
}

func TestHelpAndVersion(t *testing.T) {
	for _, word := range []string{"help", "-h", "-help", "--help"} {
		out, err := call("", word)
		require.NoError(t, err)
		assert.Equal(t, usage, out)
	}
	for _, word := range []string{"help", "version"} {
		out, err := call("", "help", word)
		require.NoError(t, err)
		assert.Equal(t, usage, out)
	}
	for _, word := range []string{"version", "-version", "--version"} {
		out, err := call("", word)
		require.NoError(t, err)
		assert.Equal(t, program.Version()+"\n", out)
	}
}

// A variable that nothing reads is named, beside whatever the command prints.
func TestUnknownVariablesAreNamed(t *testing.T) {
	t.Setenv("OUTFLOW_OUTBOXX", "shop")
	var stdout, stderr bytes.Buffer
	require.NoError(t, run(t.Context(), []string{"version"}, os.Getenv, &stdout, &stderr))
	assert.Contains(t, stderr.String(), "outflow: warning: OUTFLOW_OUTBOXX: no setting has this name; did you mean OUTFLOW_OUTBOX?\n")
	assert.NotContains(t, stdout.String(), "OUTFLOW")
}

func TestMigrateHelp(t *testing.T) {
	for _, word := range []string{"-h", "-help", "--help"} {
		out, err := call("", "migrate", word)
		require.NoError(t, err)
		assert.Equal(t, migrateUsage, out)
	}
}

// What Postgres says of a missing schema or right does not say what to do.
func TestAdvice(t *testing.T) {
	pool := teststack.NewEmpty(t)
	url := pool.Config().ConnString()
	for _, line := range [][]string{
		{"status"}, {"list", "-state", "dead"}, {"show", uuid.NewString()}, {"retry", uuid.NewString()},
		{"send", "-destination", "sqs://orders", "-type", "a", "-payload", "x"},
	} {
		_, err := call(url, line...)
		require.ErrorContains(t, err, `: the schema is missing or older than this command: run "outflow migrate up"`,
			"%v", line)
	}
	assert.EqualError(t, withAdvice(fmt.Errorf("listing: %w",
		&pgconn.PgError{Severity: "ERROR", Code: "42501", Message: "permission denied"})),
		`listing: ERROR: permission denied (SQLSTATE 42501): "outflow grants -operator ROLE" prints the rights that it needs`)
	other := &pgconn.PgError{Code: "40001"}
	assert.Equal(t, error(other), withAdvice(other))
}

func TestMigrateWithoutADatabase(t *testing.T) {
	t.Setenv("PGHOST", "")
	_, err := call("", "migrate", "status")
	require.ErrorContains(t, err, "DATABASE_URL")
	var usage program.UsageError
	assert.False(t, errors.As(err, &usage), "the command line is right: exit 1")

	_, err = call(nowhere, "migrate", "up")
	require.Error(t, err)
	assert.False(t, errors.As(err, &usage))
}

func TestMigrate(t *testing.T) {
	pool := teststack.NewEmpty(t)
	url := pool.Config().ConnString()
	all, err := migrate.Status(t.Context(), pool)
	require.NoError(t, err)
	require.NotEmpty(t, all)
	migrated := func() error { return outboxdb.New(pool).Ping(t.Context()) }

	out, err := call(url, "migrate", "status")
	require.NoError(t, err)
	for _, m := range all {
		assert.Regexp(t, `(?m)^`+m.Name+` +not applied$`, out)
	}
	require.Error(t, migrated())

	out, err = call(url, "migrate", "up")
	require.NoError(t, err)
	for _, m := range all {
		assert.Contains(t, out, "applied "+m.Name+"\n")
	}
	require.NoError(t, migrated())

	out, err = call(url, "migrate", "up")
	require.NoError(t, err)
	assert.Equal(t, "up to date\n", out)

	out, err = call(url, "migrate", "status")
	require.NoError(t, err)
	assert.Regexp(t, `applied \d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ`, out)
	assert.NotContains(t, out, "not applied")

	for i := len(all) - 1; i >= 0; i-- {
		out, err = call(url, "migrate", "down", "-yes")
		require.NoError(t, err)
		assert.Equal(t, "took back "+all[i].Name+"\n", out)
	}
	out, err = call(url, "migrate", "down", "--yes")
	require.NoError(t, err)
	assert.Equal(t, "nothing is applied\n", out)
}
