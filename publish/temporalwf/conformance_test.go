package temporalwf_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/proxy"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/publishtest"
	"github.com/outflowhq/outflow/publish/temporalwf"
)

func TestConformance(t *testing.T) { publishtest.Run(t, newHarness(t)) }

// harness is a real Temporal behind a relay, which makes the faults. Nothing runs the workflows:
// the harness reads what Temporal has of them.
type harness struct {
	world
	gate   *publishtest.Gate
	prefix string
	queues atomic.Int64

	mu     sync.Mutex
	faults map[string]publishtest.Fault // by task queue
	seen   map[string]bool              // by run ID
}

var _ publishtest.Harness = (*harness)(nil)

// destinations is how many the suite may make.
const destinations = 100

func newHarness(t *testing.T) *harness {
	h := &harness{
		world: newWorld(t), prefix: "suite-" + uuid.NewString(),
		faults: map[string]publishtest.Fault{}, seen: map[string]bool{},
	}
	conn, err := grpc.NewClient(teststack.Temporal(t), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	forward, err := proxy.NewWorkflowServiceProxyServer(proxy.WorkflowServiceProxyOptions{
		Client: workflowservice.NewWorkflowServiceClient(conn),
	})
	require.NoError(t, err)
	h.gate = publishtest.NewGate(t, serve(t, forward, grpc.UnaryInterceptor(h.intercept)))
	return h
}

// serve serves Temporal's API on an address of this machine.
func serve(t *testing.T, api workflowservice.WorkflowServiceServer, options ...grpc.ServerOption) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := grpc.NewServer(options...)
	workflowservice.RegisterWorkflowServiceServer(server, api)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() { server.Stop(); serving.Wait() })
	return listener.Addr().String()
}

// intercept stands before Temporal. Its errors are as Temporal's.
func (h *harness) intercept(
	ctx context.Context, request any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler,
) (any, error) {
	start, ok := request.(*workflowservice.StartWorkflowExecutionRequest)
	if !ok {
		return next(ctx, request)
	}
	h.mu.Lock()
	fault := h.faults[start.GetTaskQueue().GetName()]
	h.mu.Unlock()
	switch fault {
	case publishtest.Throttled:
		return nil, serviceerror.ToStatus(serviceerror.NewResourceExhausted(
			enumspb.RESOURCE_EXHAUSTED_CAUSE_RPS_LIMIT, "namespace rate limit exceeded")).Err()
	case publishtest.Denied:
		return nil, serviceerror.ToStatus(serviceerror.NewPermissionDenied("Request unauthorized.", "")).Err()
	case publishtest.Broken:
		return nil, serviceerror.ToStatus(serviceerror.NewInternal("shard is closed")).Err()
	case publishtest.Slow:
		time.Sleep(publishtest.SlowBy)
	case publishtest.AnswerLost:
		defer h.gate.Shut()
	}
	return next(ctx, request)
}

func (h *harness) Publisher(t *testing.T) publish.Publisher {
	targets := []string{missingNamespace + "/orders/Collect"}
	for n := range destinations {
		targets = append(targets, fmt.Sprintf("default/%s-%d/Collect", h.prefix, n+1))
	}
	p := temporalwf.New(temporalwf.Options{
		Client: client.Options{HostPort: h.gate.Address()}, Targets: parsed(t, targets...),
	})
	t.Cleanup(p.Close)
	return p
}

func (h *harness) Destination(t *testing.T) string {
	n := h.queues.Add(1)
	require.LessOrEqual(t, n, int64(destinations))
	return fmt.Sprintf("temporal://%s-%d/Collect", h.prefix, n)
}

func (h *harness) MissingDestination(*testing.T) string {
	return "temporal://orders/Collect?namespace=" + missingNamespace
}

func (h *harness) Receive(t *testing.T, destination string, n int) (found []outflow.Message) {
	for deadline := time.Now().Add(5 * time.Second); len(found) < n && time.Now().Before(deadline); {
		list, err := h.client.ListWorkflow(t.Context(), &workflowservice.ListWorkflowExecutionsRequest{
			Query: fmt.Sprintf("TaskQueue = '%s'", queueOf(destination)),
		})
		require.NoError(t, err)
		for _, run := range list.GetExecutions() {
			if id := run.GetExecution().GetRunId(); !h.seen[id] {
				h.seen[id] = true
				found = append(found, h.message(t, run.GetExecution().GetWorkflowId(), id))
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	return found
}

// message is what a run was started with, as the message that it was.
func (h *harness) message(t *testing.T, workflowID, runID string) outflow.Message {
	t.Helper()
	started := h.started(t, workflowID, runID)
	m := outflow.Message{Payload: started.GetInput().GetPayloads()[0].GetData()}
	for name, field := range started.GetHeader().GetFields() {
		var value string
		if name == "_tracer-data" {
			continue
		}
		require.NoError(t, json.Unmarshal(field.GetData(), &value), name)
		switch name {
		case temporalwf.HeaderMessageID:
			m.ID = uuid.MustParse(value)
		case temporalwf.HeaderType:
			m.Type = value
		case temporalwf.HeaderContentType:
			m.ContentType = value
		case temporalwf.HeaderOrderingKey:
			m.OrderingKey = value
		default:
			if m.Headers == nil {
				m.Headers = map[string]string{}
			}
			m.Headers[name] = value
		}
	}
	return m
}

// MaxBytes is the server's default, limit.blobSize.error.
func (h *harness) MaxBytes() int { return 2 << 20 }

func (h *harness) Break(_ *testing.T, destination string, f publishtest.Fault) {
	if f == publishtest.Unreachable {
		h.gate.Shut()
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.faults[queueOf(destination)] = f
}

func (h *harness) Restore(t *testing.T, destination string) {
	h.gate.Open(t)
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.faults, queueOf(destination))
}

func (h *harness) Skip(name string) (reason string, skip bool) {
	switch name {
	case "payloads arrive byte for byte":
		return "a payload of application/json that is no JSON is refused; TestPayloadsArrive has the others", true
	case publishtest.CaseOrder:
		return "workflows run beside each other, and Temporal keeps no order between them", true
	}
	return "", false
}

func queueOf(destination string) string {
	queue, _, _ := strings.Cut(strings.TrimPrefix(destination, "temporal://"), "/")
	return queue
}
