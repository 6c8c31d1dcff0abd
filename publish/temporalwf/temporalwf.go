// Package temporalwf starts and signals the user's own workflows: a message to
// temporal://task-queue/WorkflowType is a workflow that runs if and only if the producer's
// transaction commits.
//
// The invariant:
//
//   - A message is reported as published only where Temporal answered with the run that has it.
//   - Temporal's request ID is the message ID: another attempt starts no second run, as long as
//     the namespace keeps the first one.
//   - Nothing is started or signalled but what an operator has listed in Targets, and nothing of
//     Temporal's or Outflow's own.
//   - No error carries a payload.
//
// Here alone a payload enters Temporal: it is the workflow's input, or the signal's.
//
// The calls go to Temporal's API, because the SDK lets nobody choose the request ID. So
// propagators and interceptors of the client do not run. docs/workflows.md says what a workflow
// gets.
//
//	targets, err := temporalwf.ParseTargets("default/orders/ProcessOrder")
//	publisher := temporalwf.New(temporalwf.Options{
//		Client:  client.Options{HostPort: "temporal.example.com:7233"},
//		Targets: targets,
//	})
//	defer publisher.Close()
package temporalwf

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish"
)

// DefaultTimeout bounds a call: connection, request and answer. A start takes some milliseconds.
const DefaultTimeout = 10 * time.Second

// identity is what histories show as who started a run, where the client's options name nobody.
const identity = "outflow"

// Options are the settings of a Publisher. The zero value allows no workflow.
type Options struct {
	// Client has the address of Temporal, TLS and credentials, as for a client of the SDK.
	// Namespace is that of destinations that name none; "" means "default". DataConverter, where
	// set, encodes the payloads, so that a codec of the workers' applies: it must pass
	// converter.RawValue through, as the SDK's own do. The publisher uses connections of its own.
	Client client.Options
	// Targets are the workflows that may be started and signalled.
	Targets Targets
	// Outboxes are the names whose workflow IDs ("<name>/…") are refused: those of Outflow's own
	// runs. Empty means outflow.DefaultOutbox.
	Outboxes []string
	// TaskQueues are refused, beside those that begin with "outflow-": Outflow's own under
	// another name.
	TaskQueues []string
	// Timeout bounds a Publish, connecting included, unless the caller's deadline is earlier. 0
	// means DefaultTimeout, and outflow.MaxCallTime is the most. A Publish whose caller has no
	// time for it, as on the fast path, has outflow.FastPathCallTime.
	Timeout time.Duration
}

// Publisher starts and signals workflows. It is safe for concurrent use. It connects to a
// namespace with the first message to it.
type Publisher struct {
	targets   Targets
	reserved  reserved
	namespace string
	converter converter.DataConverter
	identity  string
	timeout   time.Duration
	clients   clients
}

var (
	_ publish.Publisher = (*Publisher)(nil)
	_ publish.Checker   = (*Publisher)(nil)
	_ publish.Refuser   = (*Publisher)(nil)
)

// New returns a Publisher.
func New(o Options) *Publisher {
	if len(o.Outboxes) == 0 {
		o.Outboxes = []string{outflow.DefaultOutbox}
	}
	return &Publisher{
		targets: o.Targets, reserved: reserved{o.Outboxes, o.TaskQueues},
		namespace: cmp.Or(o.Client.Namespace, client.DefaultNamespace),
		converter: o.Client.DataConverter, identity: cmp.Or(o.Client.Identity, identity),
		timeout: min(cmp.Or(max(o.Timeout, 0), DefaultTimeout), outflow.MaxCallTime),
		clients: clients{options: o.Client},
	}
}

// Close waits for the calls under way and closes the connections. A Publish after it sends
// nothing.
func (p *Publisher) Close() { p.clients.close() }

// Scheme is "temporal".
func (*Publisher) Scheme() string { return outflow.SchemeTemporal }

// Publish starts m's workflow, or signals it, and returns the run ID. See publish.Publisher for
// what it promises. Publishing a message again starts nothing and answers with the same run.
func (p *Publisher) Publish(ctx context.Context, m outflow.Message) (runID string, err error) {
	d, err := outflow.ParseDestination(m.Destination)
	if err != nil {
		return "", outflow.Permanent(fmt.Errorf(
			"reading the destination: %w; redirect the message to a valid one", err))
	}
	doing := "starting " + outflow.DisplayDestination(d.String())
	if d.Signal != "" {
		doing = "signalling " + outflow.DisplayDestination(d.String())
	}
	if d.Scheme != outflow.SchemeTemporal {
		return "", outflow.Permanent(fmt.Errorf("%s: only temporal:// is published here; redirect the message", doing))
	}
	w := p.workflowOf(d)
	switch err := p.allowed(doing, w); {
	case outflow.IsPermanent(err):
		return "", err
	case err != nil: // it says nothing about other workflows of the task queue, so no breaker counts it
		return "", outflow.Retryable(err)
	}
	r, err := p.encode(m, d, w)
	if err != nil {
		return "", outflow.Permanent(fmt.Errorf("encoding message %s for %s: %w (correct the message and enqueue "+
			"it again, or redirect it)", m.ID, d, err))
	}
	c, end, err := p.begin(ctx, doing, w.namespace)
	if err != nil {
		return "", err
	}
	defer end()
	if d.Signal != "" {
		return c.signal(r)
	}
	return c.start(r)
}

// begin returns a call to a namespace, if there is time for it. The call goes on without its
// caller: Temporal may have the request. end must be called after it.
func (p *Publisher) begin(ctx context.Context, doing, namespace string) (_ *call, end func(), err error) {
	notAttempted := func(why error) error {
		return outflow.Retryable(fmt.Errorf("%s: %w: %w", doing, outflow.ErrNotAttempted, why))
	}
	callTime := publish.CallTime(ctx, p.timeout)
	if !publish.EnoughTime(ctx, min(callTime, outflow.FastPathCallTime)/4) {
		return nil, nil, notAttempted(cmp.Or(context.Cause(ctx), errTooLittleTime))
	}
	service, release, err := p.clients.acquire(namespace)
	switch {
	case errors.Is(err, errClosed):
		return nil, nil, notAttempted(err)
	case err != nil:
		err = fmt.Errorf("%s: making Temporal's client: %w (check Options.Client)", doing, err)
		return nil, nil, outflow.Unavailable(err)
	}
	deadline := time.Now().Add(callTime)
	if callers, ok := ctx.Deadline(); ok && callers.Before(deadline) {
		deadline = callers
	}
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), deadline)
	c := &call{ctx: ctx, service: service, doing: doing, cutShort: callTime < p.timeout}
	return c, func() { cancel(); release() }, nil
}

var errTooLittleTime = errors.New("too little time was left")

const (
	// workflowIDHeader names the workflow. Its case does not matter, as that of no header does.
	workflowIDHeader = "workflow-id"
	// maxWorkflowID is what a Temporal on Postgres or MySQL can store. To longer IDs it answers
	// Unavailable for ever, though its setting limit.maxIDLength is 1,000.
	// https://github.com/temporalio/temporal/blob/v1.32.1/schema/postgresql/v12/temporal/schema.sql
	maxWorkflowID = 255
)

// workflowIDOf returns the ID of the message's workflow. Temporal answers Internal for ever to
// some characters that are not ASCII.
func workflowIDOf(m outflow.Message, signal bool) (string, error) {
	for name, id := range m.Headers {
		if !strings.EqualFold(name, workflowIDHeader) {
			continue
		}
		printable := !strings.ContainsFunc(id, func(r rune) bool { return r < ' ' || r > '~' })
		if id == "" || len(id) > maxWorkflowID || !printable {
			return "", fmt.Errorf("header %s wants 1 to %d printable ASCII characters", workflowIDHeader, maxWorkflowID)
		}
		return id, nil
	}
	if signal {
		return "", fmt.Errorf("a signal wants header %s, which names the workflow that it goes to", workflowIDHeader)
	}
	if m.ID == uuid.Nil {
		return "", fmt.Errorf("the message has no ID")
	}
	return m.ID.String(), nil
}
