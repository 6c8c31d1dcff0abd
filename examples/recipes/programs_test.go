package recipes_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb/outboxtest"
)

// requireNode is set where Node must be installed, as in CI. Elsewhere its test is skipped
// without Node or without npm's registry.
const requireNode = "OUTFLOW_TEST_REQUIRES_NODE"

// program registers a user of the given name and returns what it printed.
type program func(name string) (said []byte, err error)

// TestPrograms runs the recipes that are not in Go.
func TestPrograms(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(*testing.T, *pgxpool.Pool) program{
		"node": openNode,
		"psql": func(t *testing.T, pool *pgxpool.Pool) program {
			return func(name string) ([]byte, error) {
				return exec.CommandContext(t.Context(), psql(t), pool.Config().ConnString(),
					"-v", "ON_ERROR_STOP=1", "-v", "name="+name, "-f", "psql/register.sql").CombinedOutput()
			}
		},
		"trigger": func(t *testing.T, pool *pgxpool.Pool) program {
			said, err := exec.CommandContext(t.Context(), psql(t), pool.Config().ConnString(), "-v", "ON_ERROR_STOP=1",
				"-f", "psql/trigger.sql").CombinedOutput()
			require.NoError(t, err, "%s", said)
			return func(name string) ([]byte, error) {
				_, err := pool.Exec(t.Context(), `INSERT INTO users (name) VALUES ($1)`, name)
				return nil, err
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := teststack.New(t)
			schema, err := os.ReadFile("db/schema.sql")
			require.NoError(t, err)
			for _, statement := range []string{
				string(schema),
				`ALTER TABLE users ADD CONSTRAINT no_eve CHECK (name <> 'Eve')`,
				`ALTER TABLE outbox.messages ADD CONSTRAINT no_mallory
					CHECK (convert_from(payload, 'UTF8') !~ 'Mallory')`,
			} {
				_, err = pool.Exec(t.Context(), statement)
				require.NoError(t, err)
			}
			register := open(t, pool)

			const quoted = `Ada "O'Hara" {日} \n`
			said, err := register(quoted)
			require.NoError(t, err, "%s", said)
			outboxtest.RequireEnqueued(t, pool, outflow.Message{
				Destination: "sqs://welcome-email", Type: "user-registered", ContentType: "application/json",
				Payload: []byte(`{"id": 1, "name": "Ada \"O'Hara\" {日} \\n"}`),
			})

			// No user, no message; and no message, no user.
			for _, refused := range []string{"Eve", "Mallory"} {
				said, err = register(refused)
				require.Error(t, err, "%s", said)
				require.Equal(t, 1, users(t, pool), "%s: %s", refused, said)
				require.Len(t, outboxtest.Enqueued(t, pool), 1)
			}
		})
	}
}

// psql returns the program, or skips the test.
func psql(t *testing.T) string {
	t.Helper()
	programs, err := filepath.Glob("/usr/lib/postgresql/*/bin/psql")
	require.NoError(t, err)
	if found, err := exec.LookPath("psql"); err == nil {
		programs = slices.Insert(programs, 0, found)
	}
	if len(programs) == 0 {
		t.Skip("psql is not installed")
	}
	return programs[0]
}

// openNode returns node/register.js.
func openNode(t *testing.T, pool *pgxpool.Pool) program {
	t.Helper()
	folder := installNode(t)
	return func(name string) ([]byte, error) { return runNode(t, pool, folder, "register.js", name) }
}

func runNode(t *testing.T, pool *pgxpool.Pool, folder string, args ...string) ([]byte, error) {
	t.Helper()
	run := exec.CommandContext(t.Context(), "node", args...)
	run.Dir = folder
	run.Env = append(os.Environ(), "DATABASE_URL="+pool.Config().ConnString())
	return run.CombinedOutput()
}

// TestNodesPayloads runs the README's line, and what the README says about pg's types.
func TestNodesPayloads(t *testing.T) {
	t.Parallel()
	folder := installNode(t)
	for _, c := range []struct{ line, payload, refused string }{
		{line: ofLanguage(t, "Node (pg)"), payload: `{"id": 7}`},
		{line: nodeLine("$3", "{id: 7}"), payload: `{"id":7}`},
		{line: nodeLine("$3::jsonb", "{id: 7}"), payload: `{"id": 7}`},
		{line: nodeLine("$3::jsonb", "JSON.stringify([1, 2])"), payload: `[1, 2]`},
		{line: nodeLine("$3::jsonb", "[1, 2]"), refused: "invalid input syntax for type json"},
		{line: nodeLine("$3::bytea", "Buffer.from([0xff, 0])"), payload: "\xff\x00"},
		{line: nodeLine("$3", "Buffer.from([0xff, 0])"), refused: "invalid byte sequence"},
	} {
		t.Run(c.line, func(t *testing.T) {
			t.Parallel()
			pool := teststack.New(t)
			said, err := runNode(t, pool, folder, "--input-type=module", "-e", `
				import pg from 'pg';
				const client = new pg.Client({ connectionString: process.env.DATABASE_URL });
				await client.connect();
				try { `+c.line+` } finally { await client.end(); }`)
			if c.refused != "" {
				require.Error(t, err)
				require.Contains(t, string(said), c.refused)
				return
			}
			require.NoError(t, err, "%s", said)
			outboxtest.RequireEnqueued(t, pool, outflow.Message{
				Destination: "sqs://welcome-email", Type: "user-registered", Payload: []byte(c.payload),
			})
		})
	}
}

func nodeLine(parameter, payload string) string {
	return "await client.query('SELECT outbox.enqueue($1, $2, " + parameter +
		")', ['sqs://welcome-email', 'user-registered', " + payload + "])"
}

// installNode installs the packages of package-lock.json in a folder of the test's own.
func installNode(t *testing.T) (folder string) {
	t.Helper()
	missing := t.Skipf
	if os.Getenv(requireNode) != "" {
		missing = t.Fatalf
	}
	for _, name := range []string{"node", "npm"} {
		if _, err := exec.LookPath(name); err != nil {
			missing("%s is not installed", name)
		}
	}
	folder = t.TempDir()
	require.NoError(t, os.CopyFS(folder, os.DirFS("node")))
	var said []byte
	var err error
	for try := range 3 { // a registry may refuse for a moment
		install := exec.CommandContext(t.Context(), "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
		install.Dir = folder
		if said, err = install.CombinedOutput(); err == nil {
			return folder
		}
		time.Sleep(time.Duration(try) * time.Second)
	}
	missing("npm ci: %v\n%s", err, said)
	return ""
}
