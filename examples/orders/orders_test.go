package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"google.golang.org/protobuf/types/known/durationpb"
	"log/slog"

	"github.com/outflowhq/outflow/dispatcher"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/temporalwf"
	"github.com/outflowhq/outflow/scanner"
)

// TestKilledAtEveryPoint places orders with a service that is killed before the first message that
// it exchanges with Postgres, before the second, and so on, until it is not killed any more.
// Afterwards each order that is in the table has its workflow, and no other workflow was started.
func TestKilledAtEveryPoint(t *testing.T) {
	pool := teststack.New(t)
	temporal := newNamespace(t)
	program := filepath.Join(t.TempDir(), "orders")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Env = append(os.Environ(), "GOWORK=off")
	said, err := build.CombinedOutput()
	require.NoError(t, err, "%s", said)
	env := append(os.Environ(), "TEMPORAL_ADDRESS="+temporal.address, "TEMPORAL_NAMESPACE="+temporal.namespace,
		"TEMPORAL_CONFIG_FILE="+os.DevNull, "LISTEN=127.0.0.1:0")
	direct := "DATABASE_URL=" + pool.Config().ConnString()
	startProcess(t, "working on ", program, append(env, direct), "work")
	dispatch(t, pool, temporal)

	killed := 0
	for point := 1; ; point++ {
		r := newExecutioner(t, pool)
		service := startProcess(t, "listening on ", program, append(env, "DATABASE_URL="+r.url), "serve")
		r.arm(point, func() { _ = service.Process.Kill() })
		answer, err := http.Post(service.rest+"/orders", "application/json",
			strings.NewReader(fmt.Sprintf(`{"item": "teapot %d"}`, point)))
		if err == nil {
			_ = answer.Body.Close()
			require.Equal(t, http.StatusCreated, answer.StatusCode)
		}
		if !r.fired() {
			require.NoError(t, err)
			break
		}
		killed++
	}
	var orders int
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM orders`).Scan(&orders))
	t.Logf("killed at %d points; %d orders were committed", killed, orders)
	require.Greater(t, killed, 20, "begin, insert, enqueue and commit have some messages each")
	require.Greater(t, orders, 1, "killed after a commit, before its answer")
	require.Less(t, orders, killed, "killed before a commit")

	require.Eventually(t, func() bool {
		return teststack.Value[bool](t, pool, `SELECT NOT EXISTS (SELECT FROM orders WHERE shipped_at IS NULL)
			AND NOT EXISTS (SELECT FROM outbox.messages WHERE state <> 'delivered')`)
	}, time.Minute, 50*time.Millisecond, "each order is shipped by its workflow")
	ids := teststack.Values[string](t, pool, `SELECT 'order-' || id FROM orders`)
	require.Eventually(t, func() bool { return len(temporal.started(t)) >= len(ids) }, time.Minute, 50*time.Millisecond)
	require.ElementsMatch(t, ids, temporal.started(t), "no workflow has no order, and none runs twice")
}

// namespace is one of Temporal's for this test alone: its task queue has the example's name.
type namespace struct {
	address, namespace string
	client             client.Client
}

func newNamespace(t *testing.T) namespace {
	t.Helper()
	n := namespace{address: teststack.Temporal(t), namespace: "orders-" + uuid.NewString()}
	var err error
	n.client, err = client.Dial(client.Options{HostPort: n.address, Namespace: n.namespace,
		Logger: sdklog.NewStructuredLogger(slog.New(slog.DiscardHandler))})
	require.NoError(t, err)
	t.Cleanup(n.client.Close)
	_, err = n.client.WorkflowService().RegisterNamespace(t.Context(), &workflowservice.RegisterNamespaceRequest{
		Namespace: n.namespace, WorkflowExecutionRetentionPeriod: durationpb.New(24 * time.Hour),
	})
	require.NoError(t, err)
	require.Eventually(t, func() bool { // the server's cache takes seconds to learn of it
		_, err := n.client.ListWorkflow(t.Context(), &workflowservice.ListWorkflowExecutionsRequest{})
		return err == nil
	}, time.Minute, 100*time.Millisecond)
	return n
}

// started are the IDs of the shop's workflows, one for each run.
func (n namespace) started(t *testing.T) (ids []string) {
	t.Helper()
	list, err := n.client.ListWorkflow(t.Context(),
		&workflowservice.ListWorkflowExecutionsRequest{Query: "WorkflowType = 'ProcessOrder'"})
	require.NoError(t, err)
	for _, run := range list.GetExecutions() {
		ids = append(ids, run.GetExecution().GetWorkflowId())
	}
	return ids
}

// dispatch runs Outflow beside the shop.
func dispatch(t *testing.T, pool *pgxpool.Pool, n namespace) {
	t.Helper()
	targets, err := temporalwf.ParseTargets(n.namespace + "/orders/ProcessOrder")
	require.NoError(t, err)
	p := temporalwf.New(temporalwf.Options{
		Client: client.Options{HostPort: n.address, Namespace: n.namespace}, Targets: targets,
	})
	d, err := dispatcher.New(dispatcher.Options{
		Pool: pool, Client: n.client, Namespace: n.namespace, Publishers: []publish.Publisher{p},
		Scanner: scanner.Options{PollInterval: 50 * time.Millisecond},
	})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-ended)
		p.Close()
	})
}

// process is one of the example's.
type process struct {
	*exec.Cmd
	rest string // of the line that says that it is ready
}

// startProcess starts the program, and waits until it prints a line that begins with ready. It
// is killed when the test ends.
func startProcess(t *testing.T, ready, program string, env []string, args ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(program, args...)}
	p.Env, p.Stderr = env, os.Stderr
	stdout, err := p.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.Start())
	t.Cleanup(func() { _, _ = p.Process.Kill(), p.Wait() })
	lines := bufio.NewScanner(stdout)
	for found := false; !found; {
		require.True(t, lines.Scan(), "it ended before it was ready")
		p.rest, found = strings.CutPrefix(lines.Text(), ready)
	}
	go func() { _, _ = io.Copy(io.Discard, stdout) }() // until the process ends
	return p
}

// executioner stands between the service and Postgres. It counts the messages of both, and kills
// the service before it passes the chosen one on.
type executioner struct {
	url, server string
	relays      sync.WaitGroup

	mu   sync.Mutex
	left int // messages to the kill; 0 or less: none is counted
	kill func()
}

func newExecutioner(t *testing.T, pool *pgxpool.Pool) *executioner {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	through, err := url.Parse(pool.Config().ConnString())
	require.NoError(t, err)
	e := &executioner{server: through.Host}
	through.Host = listener.Addr().String()
	e.url = through.String()
	e.relays.Go(func() {
		for {
			service, err := listener.Accept()
			if err != nil {
				return
			}
			postgres, err := net.Dial("tcp", e.server)
			if err != nil {
				_ = service.Close()
				continue
			}
			e.relays.Go(func() { e.relay(postgres, service, 4) }) // the first message has no type
			e.relays.Go(func() { e.relay(service, postgres, 5) })
		}
	})
	t.Cleanup(func() { _ = listener.Close(); e.relays.Wait() })
	return e
}

// arm has the service killed before the message with this number from now on.
func (e *executioner) arm(number int, kill func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.left, e.kill = number, kill
}

// fired reports whether the service was killed.
func (e *executioner) fired() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.left == 0
}

// passes reports whether the next message is passed on.
func (e *executioner) passes() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.kill == nil {
		return true
	}
	if e.left > 0 {
		if e.left--; e.left == 0 {
			e.kill()
		}
	}
	return e.left > 0
}

// relay passes messages on: a type, but for the first one of a client, a length, a body.
func (e *executioner) relay(to, from net.Conn, head int) {
	defer to.Close()
	defer from.Close()
	for ; ; head = 5 {
		message := make([]byte, head)
		if _, err := io.ReadFull(from, message); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(message[head-4:])-4)
		if _, err := io.ReadFull(from, body); err != nil || !e.passes() {
			return
		}
		if _, err := to.Write(append(message, body...)); err != nil {
			return
		}
	}
}
