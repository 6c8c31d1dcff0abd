package recipes_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/examples/recipes"
	"github.com/outflowhq/outflow/examples/recipes/db"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb/outboxtest"
)

type register func(ctx context.Context, name string) error

func openGORM(t *testing.T, pool *pgxpool.Pool, config gorm.Config) *gorm.DB {
	t.Helper()
	config.Logger = logger.Discard
	below := stdlib.OpenDBFromPool(pool)
	t.Cleanup(func() { require.NoError(t, below.Close()) })
	g, err := gorm.Open(postgres.New(postgres.Config{Conn: below}), &config)
	require.NoError(t, err)
	return g
}

func TestRecipes(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(*testing.T, *pgxpool.Pool) register{
		"sqlc": func(_ *testing.T, pool *pgxpool.Pool) register {
			queries := db.New(pool)
			return func(ctx context.Context, name string) error {
				return recipes.RegisterSQLC(ctx, pool, queries, name)
			}
		},
		"GORM": func(t *testing.T, pool *pgxpool.Pool) register {
			g := openGORM(t, pool, gorm.Config{})
			return func(ctx context.Context, name string) error { return recipes.RegisterGORM(ctx, g, name) }
		},
		"GORM, prepared": func(t *testing.T, pool *pgxpool.Pool) register {
			g := openGORM(t, pool, gorm.Config{PrepareStmt: true})
			return func(ctx context.Context, name string) error { return recipes.RegisterGORM(ctx, g, name) }
		},
		"bun": func(t *testing.T, pool *pgxpool.Pool) register {
			below := stdlib.OpenDBFromPool(pool)
			t.Cleanup(func() { require.NoError(t, below.Close()) })
			b := bun.NewDB(below, pgdialect.New())
			return func(ctx context.Context, name string) error { return recipes.RegisterBun(ctx, b, name) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := teststack.New(t)
			schema, err := os.ReadFile("db/schema.sql")
			require.NoError(t, err)
			_, err = pool.Exec(t.Context(), string(schema))
			require.NoError(t, err)
			register := open(t, pool)

			require.NoError(t, register(t.Context(), "Ada"))
			outboxtest.RequireEnqueued(t, pool, outflow.Message{
				Destination: "sqs://welcome-email", Type: "user-registered",
				Payload: []byte(`{"id": 1, "name": "Ada"}`),
			})
			require.Equal(t, 1, users(t, pool))

			// No message, no user: the outbox refuses what is above its 1 MiB for SQS.
			err = register(t.Context(), strings.Repeat("a", 1<<20))
			var refused *outflow.InvalidMessageError
			require.ErrorAs(t, err, &refused)
			require.Equal(t, 1, users(t, pool))
			require.Len(t, outboxtest.Enqueued(t, pool), 1)

			// No user, no message.
			_, err = pool.Exec(t.Context(), `ALTER TABLE users ADD CONSTRAINT no_eve CHECK (name <> 'Eve')`)
			require.NoError(t, err)
			require.ErrorContains(t, register(t.Context(), "Eve"), "no_eve")
			require.Len(t, outboxtest.Enqueued(t, pool), 1)
			require.NoError(t, register(t.Context(), "Grace"))
			require.Len(t, outboxtest.Enqueued(t, pool), 2)
		})
	}
}

// TestOutsideOfATransaction: GORM without one has no *sql.Tx to enqueue in.
func TestOutsideOfATransaction(t *testing.T) {
	t.Parallel()
	_, err := recipes.SQLTx(openGORM(t, teststack.NewEmpty(t), gorm.Config{}))
	require.ErrorContains(t, err, "wants to be called within Transaction")
}

func users(t *testing.T, pool *pgxpool.Pool) (n int) {
	t.Helper()
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM users`).Scan(&n))
	return n
}

// TestReadme: the code on the page is the tested code.
func TestReadme(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("README.md")
	require.NoError(t, err)
	var code string
	for _, file := range []string{"sqlc.go", "gorm.go", "bun.go", "node/register.js", "psql/register.sql",
		"psql/trigger.sql"} {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		code += string(text)
	}
	blocks := regexp.MustCompile("(?s)```(?:go|js|sql)\n(.*?)```").FindAllSubmatch(page, -1)
	require.Len(t, blocks, 6)
	for _, b := range blocks {
		require.Contains(t, code, string(b[1]))
	}
}

// TestQueues: "make dev" creates the queues that the page sends to.
func TestQueues(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("README.md")
	require.NoError(t, err)
	made, err := os.ReadFile("../../Makefile")
	require.NoError(t, err)
	queues := regexp.MustCompile(`sqs://([\w-]+)`).FindAllSubmatch(page, -1)
	require.NotEmpty(t, queues)
	for _, q := range queues {
		require.Contains(t, string(made), "--queue "+string(q[1])+" ")
	}
}

// TestGenerated: the named version of sqlc wrote db.
func TestGenerated(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("sqlc.go")
	require.NoError(t, err)
	generate := regexp.MustCompile(`(?m)^//go:generate go run github.com/sqlc-dev/sqlc/cmd/sqlc@(\S+) generate$`)
	version := generate.FindSubmatch(source)
	require.NotNil(t, version)
	page, err := os.ReadFile("README.md")
	require.NoError(t, err)
	require.Contains(t, string(page), "sqlc@"+string(version[1])+" diff")
	files, err := filepath.Glob("db/*.go")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Contains(t, string(text),
			"// Code generated by sqlc. DO NOT EDIT.\n// versions:\n//   sqlc "+string(version[1])+"\n", file)
	}
}

// ofLanguage returns the line of the README's table for a language.
func ofLanguage(t *testing.T, language string) string {
	t.Helper()
	page, err := os.ReadFile("README.md")
	require.NoError(t, err)
	line := regexp.MustCompile("(?m)^\\| " + regexp.QuoteMeta(language) + "[^|]* \\| `(.*)` \\|$").FindSubmatch(page)
	require.NotNil(t, line, language)
	return string(line[1])
}

// requireOne requires the message that the README's lines enqueue.
func requireOne(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	outboxtest.RequireEnqueued(t, pool, outflow.Message{
		Destination: "sqs://welcome-email", Type: "user-registered", Payload: []byte(`{"id": 7}`),
	})
}

func TestPsqlsLine(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	said, err := exec.Command(psql(t), pool.Config().ConnString(), "-v", "ON_ERROR_STOP=1", "-c",
		ofLanguage(t, "psql")).CombinedOutput()
	require.NoError(t, err, "%s", said)
	requireOne(t, pool)
}

// TestPythonsLine runs with psycopg 3 and psycopg2, if a Python has them (Debian:
// python3-psycopg, python3-psycopg2).
func TestPythonsLine(t *testing.T) {
	t.Parallel()
	for _, module := range []string{"psycopg", "psycopg2"} {
		t.Run(module, func(t *testing.T) {
			t.Parallel()
			python := slices.IndexFunc(pythons,
				func(p string) bool { return exec.Command(p, "-c", "import "+module).Run() == nil })
			if python < 0 {
				t.Skipf("no Python with %s", module)
			}
			pool := teststack.New(t)
			program := "import json, sys, " + module + "\n" +
				"with " + module + ".connect(sys.argv[1]) as conn:\n" +
				"    with conn.cursor() as cur:\n" +
				"        " + ofLanguage(t, "Python") + "\n"
			said, err := exec.Command(pythons[python], "-c", program, pool.Config().ConnString()).CombinedOutput()
			require.NoError(t, err, "%s", said)
			requireOne(t, pool)
		})
	}
}

var pythons = []string{"python3", "/usr/bin/python3"}
