package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/devstack/ports"
	"github.com/outflowhq/outflow/devstack/proc"
	"github.com/outflowhq/outflow/devstack/stack"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
	"github.com/outflowhq/outflow/workflows"
)

// The destinations of the scene, and why each ends as it does.
const (
	takes   = "sqs://welcome-email"
	alsoOK  = "sqs://warehouse"
	busy    = "sqs://billing"    // answers 503
	missing = "sqs://crm-import" // was never made

	busyReason    = "The service is temporarily unavailable"
	missingReason = "The specified queue does not exist"
)

const sceneTimeout = 60 * time.Second

// scene is Outflow at work, with every kind of delivery that the pictures show.
type scene struct {
	stack    *stack.Stack
	pool     *pgxpool.Pool
	client   client.Client
	queues   *fakesqs.Server
	server   *http.Server
	programs []*program
	folder   string // of the built programs

	delivered, retrying, failed, cancelled delivery
}

// delivery is one message and its run.
type delivery struct {
	message outflow.Message
	id      string // the workflow ID
	run     string
}

// program is a running process of Outflow.
type program struct {
	*proc.Process
	name    string
	output  *output
	metrics string // the address where it serves them
}

func newScene(ctx context.Context, root string) (_ *scene, err error) {
	s := &scene{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	for _, step := range []func(context.Context) error{
		func(ctx context.Context) error { return s.build(ctx, root) },
		s.bringUp, s.startQueues, s.startPrograms, s.play,
	} {
		if err := step(ctx); err != nil {
			return s, err
		}
	}
	return s, nil
}

// build builds the programs afresh, as they are shipped.
func (s *scene) build(ctx context.Context, root string) error {
	var err error
	if s.folder, err = os.MkdirTemp("", "outflow-screenshots-"); err != nil {
		return fmt.Errorf("making a folder for the programs: %w", err)
	}
	for name, from := range map[string]string{"outflow": "./cmd/outflow", "outflow-starter": "./starter",
		"outflow-worker": "./worker"} {
		cmd := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(s.folder, name), from)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "GOWORK=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("building %s: %w\n%s", name, err, out)
		}
	}
	return nil
}

func (s *scene) bringUp(ctx context.Context) error {
	var err error
	if s.stack, err = stack.Up(ctx, stack.Options{Ephemeral: true}); err != nil {
		return err
	}
	if s.pool, err = pgxpool.New(ctx, s.stack.DatabaseURL()); err != nil {
		return fmt.Errorf("opening the database: %w", err)
	}
	quiet := sdklog.NewStructuredLogger(slog.New(slog.DiscardHandler))
	if s.client, err = client.DialContext(ctx,
		client.Options{HostPort: s.stack.TemporalAddress(), Logger: quiet}); err != nil {
		return fmt.Errorf("connecting to Temporal: %w", err)
	}
	return nil
}

func (s *scene) startQueues(context.Context) error {
	s.queues = &fakesqs.Server{}
	for _, destination := range []string{takes, alsoOK, busy, streamed} {
		s.queues.CreateQueue("", queueOf(destination), nil)
	}
	s.queues.Inject(fakesqs.Fault{Queue: queueOf(busy), When: sends, Error: &fakesqs.Error{
		Status: http.StatusServiceUnavailable, Code: "ServiceUnavailable", Message: busyReason,
	}})
	listener, err := net.Listen("tcp", ports.Address(0))
	if err != nil {
		return fmt.Errorf("listening for the queue service: %w", err)
	}
	s.server = &http.Server{Handler: s.queues, Addr: listener.Addr().String(), ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = s.server.Serve(listener) }() // until close
	return nil
}

// sends spares the look-up of a queue: as with SQS, that is another part.
func sends(r fakesqs.Request) bool { return strings.HasPrefix(r.Action, "SendMessage") }

func queueOf(destination string) string {
	d, err := outflow.ParseDestination(destination)
	if err != nil {
		panic(err) // a constant of this file
	}
	return d.Name
}

func (s *scene) startPrograms(ctx context.Context) error {
	migrate := exec.CommandContext(ctx, filepath.Join(s.folder, "outflow"), "migrate", "up")
	migrate.Env = s.env()
	if out, err := migrate.CombinedOutput(); err != nil {
		return fmt.Errorf("migrating: %w\n%s", err, out)
	}
	for _, name := range []string{"outflow-worker", "outflow-starter"} {
		port, err := ports.Free()
		if err != nil {
			return err
		}
		p := &program{name: name, output: &output{}, metrics: ports.Address(port)}
		cmd := exec.Command(filepath.Join(s.folder, name))
		cmd.Env, cmd.Stdout, cmd.Stderr = append(s.env(), "OUTFLOW_HEALTH_ADDRESS="+p.metrics), p.output, p.output
		if p.Process, err = proc.Start(cmd, syscall.SIGKILL); err != nil {
			return err
		}
		s.programs = append(s.programs, p)
	}
	return nil
}

func (s *scene) env() []string {
	return append(s.stack.ChildEnv(os.Environ()), "AWS_ENDPOINT_URL_SQS=http://"+s.server.Addr,
		"AWS_EC2_METADATA_DISABLED=true", "OUTFLOW_MISSING_GRACE=0") // a missing queue fails at once
}

// play enqueues a small shop's messages and waits until each stands as its
// picture wants it.
func (s *scene) play(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, sceneTimeout,
		fmt.Errorf("the deliveries did not come that far within %s", sceneTimeout))
	defer cancel()
	for _, step := range []struct {
		kind, destination, payload string
		into                       *delivery
	}{
		{"user-registered", takes, `{"user":41}`, nil},
		{"order-placed", alsoOK, `{"order":7001}`, nil},
		{"invoice-reminder", busy, `{"invoice":311}`, &s.cancelled},
		{"order-placed", alsoOK, `{"order":7002}`, nil},
		{"customer-changed", missing, `{"customer":12}`, &s.failed},
		{"invoice-issued", busy, `{"invoice":312}`, &s.retrying},
		{"order-cancelled", alsoOK, `{"order":7002}`, nil},
		{"user-registered", takes, `{"user":42}`, &s.delivered},
	} {
		m := outflow.Message{ID: uuid.Must(uuid.NewV7()), Type: step.kind, Destination: step.destination,
			Payload: []byte(step.payload)}
		if err := s.enqueue(ctx, m); err != nil {
			return err
		}
		if step.into != nil {
			*step.into = delivery{message: m, id: workflows.DeliverID(outflow.DefaultOutbox, m.ID)}
		}
		if err := s.until(ctx, m.ID, "attempts > 0 OR last_error IS NOT NULL"); err != nil {
			return err
		}
	}
	if err := s.client.CancelWorkflow(ctx, s.cancelled.id, ""); err != nil {
		return fmt.Errorf("cancelling %s: %w", s.cancelled.id, err)
	}
	for _, wait := range []struct {
		d         *delivery
		condition string
		status    enums.WorkflowExecutionStatus
	}{
		{&s.delivered, "state = 'delivered'", enums.WORKFLOW_EXECUTION_STATUS_COMPLETED},
		{&s.failed, "state = 'dead'", enums.WORKFLOW_EXECUTION_STATUS_FAILED},
		{&s.cancelled, "state = 'cancelled'", enums.WORKFLOW_EXECUTION_STATUS_CANCELED},
		// The wait after the fifth durable attempt leaves the picture twelve seconds.
		{&s.retrying, "attempts >= 6", enums.WORKFLOW_EXECUTION_STATUS_RUNNING},
	} {
		if err := s.until(ctx, wait.d.message.ID, wait.condition); err != nil {
			return err
		}
		if err := s.untilRun(ctx, wait.d, wait.status); err != nil {
			return err
		}
	}
	return nil
}

func (s *scene) enqueue(ctx context.Context, m outflow.Message) error {
	tx, err := s.pool.Begin(ctx)
	if err != nil {
		return fmt.Errorf("enqueuing: %w", err)
	}
	defer tx.Rollback(ctx) //nolint:errcheck // after the commit there is nothing to roll back
	if _, err := outboxdb.Enqueue(ctx, tx, m); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// until waits for a condition of a message's row.
func (s *scene) until(ctx context.Context, id uuid.UUID, condition string) error {
	return s.poll(ctx, fmt.Sprintf("message %s: %s", id, condition), func() (bool, error) {
		var holds bool
		err := s.pool.QueryRow(ctx, "SELECT "+condition+" FROM outbox.messages WHERE id = $1", id).Scan(&holds)
		return holds, err
	})
}

// untilRun waits for a run's status and notes the run.
func (s *scene) untilRun(ctx context.Context, d *delivery, status enums.WorkflowExecutionStatus) error {
	return s.poll(ctx, fmt.Sprintf("workflow %s: %s", d.id, status), func() (bool, error) {
		described, err := s.client.DescribeWorkflowExecution(ctx, d.id, "")
		if err != nil {
			return false, err
		}
		d.run = described.GetWorkflowExecutionInfo().GetExecution().GetRunId()
		return described.GetWorkflowExecutionInfo().GetStatus() == status, nil
	})
}

func (s *scene) poll(ctx context.Context, what string, holds func() (bool, error)) error {
	for {
		ok, err := holds()
		if ok && err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("waiting for %s: %w", what, context.Cause(ctx)), err, s.said())
		case <-time.After(lookEvery):
		}
	}
}

// said is what the programs wrote, for an error's reader.
func (s *scene) said() error {
	var errs []error
	for _, p := range s.programs {
		errs = append(errs, fmt.Errorf("%s said:\n%s", p.name, p.output))
	}
	return errors.Join(errs...)
}

func (s *scene) close() error {
	var errs []error
	for _, p := range s.programs {
		_ = p.Signal(syscall.SIGKILL) // nothing of it is kept
		<-p.Done()
	}
	if s.client != nil {
		s.client.Close()
	}
	if s.pool != nil {
		s.pool.Close()
	}
	if s.server != nil {
		errs = append(errs, s.server.Close())
	}
	if s.stack != nil {
		errs = append(errs, s.stack.Down())
	}
	if s.folder != "" {
		errs = append(errs, os.RemoveAll(s.folder))
	}
	return errors.Join(errs...)
}

// output collects what a process writes.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}
