package tracing

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strings"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/text"
	"github.com/outflowhq/outflow/outbox"
)

// The operations, which begin the spans' names. docs/tracing.md lists them.
const (
	opEnqueue  = "enqueue"
	opStart    = "start"
	opPublish  = "publish"
	opCallback = "callback"
)

// The attributes are those of OpenTelemetry's semantic conventions 1.43 for
// messaging, as far as these have one; their status is "development".
// https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/
const (
	attrSystem        = attribute.Key("messaging.system")
	attrOperation     = attribute.Key("messaging.operation.name")
	attrOperationType = attribute.Key("messaging.operation.type")
	attrDestination   = attribute.Key("messaging.destination.name")
	attrMessageID     = attribute.Key("messaging.message.id")
	attrCount         = attribute.Key("messaging.batch.message_count")
	attrErrorType     = attribute.Key("error.type")

	attrType       = attribute.Key("outflow.type")
	attrGeneration = attribute.Key("outflow.generation")
	attrAttempt    = attribute.Key("outflow.attempt")
	attrPath       = attribute.Key("outflow.path")
	attrBrokerID   = attribute.Key("outflow.broker_message_id")
	attrState      = attribute.Key("outflow.state")
	attrRunning    = attribute.Key("outflow.already_running")

	// These names are those of Temporal's own tracing.
	attrWorkflowID = attribute.Key("temporalWorkflowID")
	attrRunID      = attribute.Key("temporalRunID")
)

// The systems. Enqueue and start are Outflow's own operations. The conventions name the other
// systems, except webhooks.
const (
	systemOutflow = "outflow"
	systemWebhook = "webhook"
)

var systems = map[string]string{
	outflow.SchemeSQS: "aws_sqs", outflow.SchemeSNS: "aws.sns", outflow.SchemeRabbitMQ: "rabbitmq",
	outflow.SchemeTemporal: "temporal",
	outflow.SchemeHTTPS:    systemWebhook, outflow.SchemeHTTP: systemWebhook,
}

// describe returns the system and the name of a destination. Both are empty where it can't be
// parsed. The name of an https address is its host: the rest may be a secret.
func describe(destination string) (system, name string) {
	d, err := outflow.ParseDestination(destination)
	if err != nil {
		return "", ""
	}
	switch d.Scheme {
	case outflow.SchemeHTTPS, outflow.SchemeHTTP:
		if u, err := url.Parse(d.URL); err == nil {
			name = u.Host
		}
	case outflow.SchemeRabbitMQ: // as in the conventions for RabbitMQ
		name = strings.Trim(d.Name+":"+d.RoutingKey, ":")
	case outflow.SchemeTemporal:
		name = d.TaskQueue + "/" + d.WorkflowType
	default:
		name = d.Name
	}
	return systems[d.Scheme], name
}

// Span is an operation under way. End it once.
type Span struct{ span trace.Span }

// begin begins the span of an operation on the destination name in a system. Samplers see the
// attributes that are given here, and no later ones.
func (t Tracer) begin(
	ctx context.Context, operation, system, name string, kind trace.SpanKind,
	attributes []attribute.KeyValue, options ...trace.SpanStartOption,
) (context.Context, Span) {
	spanName := operation
	attributes = append(attributes, attrOperation.String(operation))
	if system != "" {
		attributes = append(attributes, attrSystem.String(system))
	}
	if name != "" {
		spanName += " " + name
		attributes = append(attributes, attrDestination.String(name))
	}
	options = append(options, trace.WithSpanKind(kind), trace.WithAttributes(attributes...))
	ctx, span := t.tracer().Start(ctx, spanName, options...)
	return ctx, Span{span}
}

// Enqueue begins the span of a call that enqueues msgs. The messages carry its context. The span
// links to the contexts that messages already carry.
func (t Tracer) Enqueue(ctx context.Context, msgs []outflow.Message) (context.Context, Span) {
	attributes := []attribute.KeyValue{attrOperationType.String("send")}
	if len(msgs) > 1 {
		attributes = append(attributes, attrCount.Int(len(msgs)))
	}
	differs := func(field func(outflow.Message) string) bool {
		first := field(msgs[0])
		return slices.ContainsFunc(msgs[1:], func(m outflow.Message) bool { return field(m) != first })
	}
	name := ""
	if !differs(func(m outflow.Message) string { return m.Destination }) {
		_, name = describe(msgs[0].Destination)
	}
	if !differs(func(m outflow.Message) string { return m.Type }) {
		attributes = append(attributes, attrType.String(msgs[0].Type))
	}
	var links []trace.Link
	for _, m := range msgs {
		if own := carried(m.Headers); own.IsValid() {
			links = append(links, trace.Link{SpanContext: own})
		}
	}
	return t.begin(ctx, opEnqueue, systemOutflow, name, trace.SpanKindProducer, attributes, trace.WithLinks(links...))
}

// Start begins the span of the start of a message's run.
func (t Tracer) Start(ctx context.Context, m outbox.Record, workflowID string) (context.Context, Span) {
	ctx, options := into(ctx, m.Headers)
	_, name := describe(m.Destination)
	return t.begin(ctx, opStart, systemOutflow, name, trace.SpanKindClient, []attribute.KeyValue{
		attrMessageID.String(m.ID.String()), attrType.String(m.Type),
		attrGeneration.Int(m.Generation), attrWorkflowID.String(workflowID),
	}, options...)
}

// Attempt tells an activity's attempts apart.
type Attempt struct {
	WorkflowID, RunID string
	// Number counts from 1, and again from 1 when a run is signalled to try now.
	Number int32
	// Path is "fast" or "durable".
	Path string
}

func (a Attempt) attributes() []attribute.KeyValue {
	all := make([]attribute.KeyValue, 0, 16) // room for the operation's own
	return append(all,
		attrWorkflowID.String(a.WorkflowID), attrRunID.String(a.RunID),
		attrAttempt.Int(int(a.Number)), attrPath.String(a.Path), attrOperationType.String("send"),
	)
}

// Publish begins the span of one call to a message's publisher.
func (t Tracer) Publish(ctx context.Context, m outbox.Record, a Attempt) (context.Context, Span) {
	if _, none := t.provider().(noop.TracerProvider); none {
		return ctx, Span{noop.Span{}}
	}
	ctx, options := into(ctx, m.Headers)
	system, name := describe(m.Destination)
	return t.begin(ctx, opPublish, system, name, trace.SpanKindClient, append(a.attributes(),
		attrMessageID.String(m.ID.String()), attrType.String(m.Type), attrGeneration.Int(m.Generation),
	), options...)
}

// Callback begins the span of one attempt to send a callback. The callback carries its context.
func (t Tracer) Callback(ctx context.Context, c outbox.Callback, a Attempt) (context.Context, Span) {
	ctx, options := into(ctx, c.Trace)
	system, name := describe(c.To)
	return t.begin(ctx, opCallback, system, name, trace.SpanKindProducer, append(a.attributes(),
		attrMessageID.String(c.ID.String()), attrType.String(c.Type), attrGeneration.Int(c.Generation),
		attrState.String(string(c.State)),
	), options...)
}

// Enqueued notes the ID of a message that was enqueued by itself.
func (s Span) Enqueued(id uuid.UUID) {
	if s.span.IsRecording() {
		s.span.SetAttributes(attrMessageID.String(id.String()))
	}
}

// Started notes the run that was started, or that a run was open already.
func (s Span) Started(runID string, running bool) {
	if runID != "" {
		s.span.SetAttributes(attrRunID.String(runID))
	}
	if running {
		s.span.SetAttributes(attrRunning.Bool(true))
	}
}

// Published notes the broker's own ID for the message.
func (s Span) Published(brokerMessageID string) {
	if brokerMessageID != "" {
		s.span.SetAttributes(attrBrokerID.String(brokerMessageID))
	}
}

// End ends the span. With an error, of the given type, the span is marked as failed. No other code
// calls the SDK's own End: where that is deferred, it writes a panic's words onto the span, and
// these may quote a payload.
func (s Span) End(err error, errorType string) {
	if err != nil && s.span.IsRecording() {
		s.span.SetAttributes(attrErrorType.String(errorType))
		s.span.SetStatus(codes.Error, text.Clean(err.Error()))
	}
	s.span.End()
}

// ErrNoAnswer is the error of an attempt whose goroutine ended, for example by a panic.
var ErrNoAnswer = errors.New("it ended without an answer (the log of the process may say why)")

// FailureType returns the type of a failed attempt to send: its class, or what says more.
func FailureType(err error) string {
	switch {
	case errors.Is(err, ErrNoAnswer):
		return "no_answer"
	case errors.Is(err, outflow.ErrNotAttempted):
		return "not_attempted"
	case outbox.IsMissing(err):
		return "missing"
	}
	return string(outflow.ClassOf(err))
}
