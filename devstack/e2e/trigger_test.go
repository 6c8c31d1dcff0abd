package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/devstack/faults"
	"github.com/outflowhq/outflow/devstack/postgres"
	"github.com/outflowhq/outflow/outboxdb/migrate"
)

// ownServer starts a Postgres server for one test, with settings of its own.
func ownServer(t *testing.T, o postgres.Options) *postgres.Cluster {
	t.Helper()
	if o.Dir == "" {
		base, err := os.MkdirTemp("/tmp", "trigger-")
		require.NoError(t, err)
		require.NoError(t, os.Chmod(base, 0o711)) // Postgres's user has to pass through
		t.Cleanup(func() { _ = os.RemoveAll(base) })
		o.Dir = filepath.Join(base, "data")
	}
	o.CrashSafe = true
	cluster, err := postgres.Start(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() { _ = cluster.Quit() })
	return cluster
}

// onServer has a world's outbox on a server of its own: env leads to it.
func (w *world) onServer(database string) (env []string) {
	w.t.Helper()
	pool, err := pgxpool.New(w.t.Context(), database)
	require.NoError(w.t, err)
	w.t.Cleanup(pool.Close)
	_, err = migrate.Up(w.t.Context(), pool)
	require.NoError(w.t, err)
	w.pool = pool
	return append(w.env, "DATABASE_URL="+database, "OUTFLOW_TRIGGER=wal", "OUTFLOW_POLL_INTERVAL=1h", "OUTFLOW_LOG_LEVEL=info")
}

// says waits until a program has logged a line.
func (w *world) says(p *faults.Program, line string) {
	w.t.Helper()
	w.eventually(2*time.Minute, "the log says: "+line, func() bool { return strings.Contains(p.Output.String(), line) })
}

// deliver enqueues some messages and waits until they have arrived.
func (w *world) deliver(why string) []uuid.UUID {
	w.t.Helper()
	ids := w.enqueue(5, to("sqs://orders"))
	w.eventually(time.Minute, "messages are delivered: "+why, func() bool { return w.count("state = 'pending'") == 0 })
	missing, _ := w.tally("orders", ids)
	require.Zero(w.t, missing, why)
	return ids
}

// A server that can't be read is said once and by doctor, and messages are found by polling. The
// trigger works once the server can.
func TestTriggerWantsAnotherServer(t *testing.T) {
	for name, server := range map[string]struct {
		settings []string
		says     string
		fix      func(w *world, c *postgres.Cluster)
	}{
		"wal_level=replica": {
			settings: []string{"wal_level=replica"}, says: "wal_level=logical",
			fix: func(w *world, c *postgres.Cluster) {
				o := c.Options()
				require.NoError(w.t, c.Stop())
				o.Settings = nil
				ownServer(w.t, o)
				w.pool.Reset()
			},
		},
		"no slot is free": {
			settings: []string{"max_replication_slots=1"}, says: "max_replication_slots",
			fix: func(w *world, _ *postgres.Cluster) {
				_, err := w.pool.Exec(w.t.Context(), `SELECT pg_drop_replication_slot('somebody')`)
				require.NoError(w.t, err)
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			c := ownServer(t, postgres.Options{Settings: server.settings})
			env := w.onServer(c.URL("postgres"))
			_, err := w.pool.Exec(t.Context(), `SELECT pg_create_physical_replication_slot('somebody')
				WHERE current_setting('max_replication_slots') = '1'`)
			require.NoError(t, err)
			p := w.startIn(env, faults.Starter)
			w.says(p, "trigger wal does not work")
			w.deliver("by polling")
			require.Contains(t, p.Output.String(), server.says)
			require.Equal(t, 1, strings.Count(p.Output.String(), "does not work"), "it is said once")
			w.eventually(time.Minute, "doctor says it", func() bool {
				cmd := exec.CommandContext(t.Context(), filepath.Join(binaries, "outflow"), "doctor")
				cmd.Env = env
				said, _ := cmd.CombinedOutput() // other findings may fail
				return strings.Contains(string(said), server.says)
			})
			server.fix(w, c)
			w.says(p, "trigger wal works")
			w.deliver("by the trigger")
		})
	}
}

// Whoever reads the log is killed, again and again: another starter reads on, and nothing is lost.
func TestTriggerOutlivesItsReader(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := ownServer(t, postgres.Options{})
	env := w.onServer(c.URL("postgres"))
	var starters []*faults.Program
	for range 2 {
		p := w.startIn(env, faults.Starter)
		w.says(p, "trigger wal works")
		starters = append(starters, p)
	}
	for range 3 {
		w.deliver("both run")
		w.kill(starters[0])
		ids := w.deliver("one was killed")
		_, duplicates := w.tally("orders", ids)
		require.Zero(t, duplicates)
		p := w.startIn(env, faults.Starter)
		w.says(p, "trigger wal works")
		starters = append(starters[1:], p)
	}
}

// The server is lost, and another one has its data: the starter finds it by the URL, and its trigger
// works there.
func TestTriggerAfterAFailover(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := ownServer(t, postgres.Options{})
	o := first.Options()
	copied := o.Dir + "-2"
	second := postgres.Options{Dir: copied, Port: 0}
	spare := ownServer(t, postgres.Options{}) // holds the port of the second server until then
	second.Port = spare.Port()
	require.NoError(t, spare.Quit())
	both := strings.Replace(first.URL("postgres"), addressOf(first.Port()), addressOf(first.Port())+","+addressOf(second.Port), 1)

	p := w.startIn(append(w.onServer(first.URL("postgres")), "DATABASE_URL="+both), faults.Starter)
	w.says(p, "trigger wal works")
	w.deliver("on the first server")
	require.NoError(t, first.Stop())
	out, err := exec.CommandContext(t.Context(), "cp", "-a", o.Dir, copied).CombinedOutput()
	require.NoError(t, err, "%s", out)
	moved := ownServer(t, second)
	w.onServer(moved.URL("postgres"))
	w.deliver("on the second server")
	w.eventually(2*time.Minute, "the trigger works there", func() bool {
		return strings.Count(p.Output.String(), "trigger wal works") == 2
	})
	w.deliver("by the trigger")
}

func addressOf(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
