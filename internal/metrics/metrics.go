// Package metrics records what a process does with messages, through OpenTelemetry's
// metrics API. docs/metrics.md lists every metric.
//
// The invariant: the number of series is bounded, whatever messages say. A target beyond
// the first MaxTargets counts as "other", and no label has the query of an address.
package metrics

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
)

// meterName is the instrumentation scope of Outflow's metrics.
const meterName = "github.com/outflowhq/outflow"

// The labels.
const (
	keyTarget  = attribute.Key("target")
	keyScheme  = attribute.Key("scheme")
	keyPath    = attribute.Key("path")
	keyResult  = attribute.Key("result")
	keyState   = attribute.Key("state")
	keyTrigger = attribute.Key("trigger")
	keyPhase   = attribute.Key("phase")
	keyBreaker = attribute.Key("breaker")
	keyCovers  = attribute.Key("covers")

	keyDestination = attribute.Key("destination")
)

// The values of the label result.
const (
	resultOK = "ok" // a claim, a purge, a batch
	// ResultFailed is that of a claim, start, batch, callback or purge that failed.
	ResultFailed = "failed"
	// ResultNew and ResultRunning are those of a start: there was no run, or one already.
	ResultNew     = "new"
	ResultRunning = "running"
	// ResultSent and ResultRetried are those of an attempt to send a callback.
	ResultSent    = "sent"
	ResultRetried = "retried"
	// ResultUnfinished is that of a purge whose time was over first.
	ResultUnfinished = "unfinished"
)

// A Recorder has the instruments of a process. Several of one provider add up. Its
// methods do nothing on a nil Recorder, and are safe for concurrent use.
type Recorder struct {
	targets *targets

	claims         metric.Int64Counter
	claimDuration  metric.Float64Histogram
	claimMessages  metric.Int64Histogram
	claimedBytes   metric.Int64Counter
	leaseExpiries  metric.Int64Counter
	inFlight       metric.Int64UpDownCounter
	starts         metric.Int64Counter
	startDuration  metric.Float64Histogram
	publishes      metric.Int64Counter
	publishTime    metric.Float64Histogram
	batchMessages  metric.Int64Histogram
	batchDuration  metric.Float64Histogram
	ended          metric.Int64Counter
	delivery       metric.Float64Histogram
	callbacks      metric.Int64Counter
	purged         metric.Int64Counter
	purges         metric.Int64Counter
	purgeCompleted metric.Float64Gauge
}

// New returns a Recorder over p's meter, or over that of OpenTelemetry's global provider
// where p is nil: it records nothing unless the program has set a provider up.
func New(p metric.MeterProvider) *Recorder {
	i := instruments{meter: meterOf(p)}
	r := &Recorder{
		targets: newTargets(MaxTargets),

		claims:        i.counter("outflow.claims", "", "Claims of due messages."),
		claimDuration: i.seconds("outflow.claim.duration", "Duration of a claim's statements.", statementSeconds),
		claimMessages: i.sizes("outflow.claim.messages", "Messages in one claim.", claimSizes),
		claimedBytes:  i.counter("outflow.claimed", "By", "Payloads and headers of claimed messages."),
		leaseExpiries: i.counter("outflow.lease.expiries", "",
			"Claims of messages whose earlier claim ran out without a result."),
		inFlight: i.upDown("outflow.in_flight.messages",
			"Messages between their claim and the end of their fast path."),

		starts:        i.counter("outflow.starts", "", "Starts of runs in Temporal."),
		startDuration: i.seconds("outflow.start.duration", "Duration of a start in Temporal.", callSeconds),

		publishes:     i.counter("outflow.publishes", "", "Attempts to publish a message."),
		publishTime:   i.seconds("outflow.publish.duration", "Duration of an attempt to publish.", callSeconds),
		batchMessages: i.sizes("outflow.publish.batch.messages", "Messages in one request to a broker.", batchSizes),
		batchDuration: i.seconds("outflow.publish.batch.duration", "Duration of one request to a broker.", callSeconds),

		ended: i.counter("outflow.messages.ended", "", "Messages whose end was written."),
		delivery: i.seconds("outflow.delivery.duration",
			"Time from when a message was due to when its delivery was written.", deliverySeconds),

		callbacks: i.counter("outflow.callbacks", "", "Attempts to send a callback."),

		purged: i.counter("outflow.purged.messages", "", "Messages that a purge removed from the table."),
		purges: i.counter("outflow.purges", "", "Purges that ended."),
		purgeCompleted: i.timestamp("outflow.purge.last_completed.timestamp",
			"When this process last completed a purge."),
	}
	if err := errors.Join(i.errs...); err != nil {
		otel.Handle(err)
	}
	r.announce()
	return r
}

func meterOf(p metric.MeterProvider) metric.Meter {
	if p == nil {
		p = otel.GetMeterProvider()
	}
	return p.Meter(meterName)
}

// announce makes the series whose first increase an alert wants to see: a series that
// begins at 1 has not increased.
func (r *Recorder) announce() {
	add := func(c metric.Int64Counter, key attribute.Key, values ...string) {
		for _, value := range values {
			c.Add(context.Background(), 0, labels(key.String(value)))
		}
	}
	add(r.starts, keyResult, ResultNew, ResultRunning, ResultFailed)
	add(r.callbacks, keyResult, ResultSent, ResultRetried, ResultFailed)
	add(r.purges, keyResult, resultOK, ResultUnfinished, ResultFailed)
	r.leaseExpiries.Add(context.Background(), 0)
}

func labels(all ...attribute.KeyValue) metric.MeasurementOption {
	return metric.WithAttributeSet(attribute.NewSet(all...))
}

// Claimed records a claim of so many messages and bytes. trigger is what the scanner
// waited for: "poll", "wake", "hint" or "slot".
func (r *Recorder) Claimed(trigger string, messages, bytes int, took time.Duration, err error) {
	if r == nil {
		return
	}
	ctx, result := context.Background(), resultOK
	if err != nil {
		result = ResultFailed
	}
	r.claims.Add(ctx, 1, labels(keyTrigger.String(trigger), keyResult.String(result)))
	r.claimDuration.Record(ctx, took.Seconds())
	if err == nil {
		r.claimMessages.Record(ctx, int64(messages))
		r.claimedBytes.Add(ctx, int64(bytes))
	}
}

// Taken records that a claimed message is in flight, and whether an earlier claim of it
// ran out.
func (r *Recorder) Taken(leaseExpired bool) {
	if r == nil {
		return
	}
	r.inFlight.Add(context.Background(), 1)
	if leaseExpired {
		r.LeasesExpired(1)
	}
}

// LeasesExpired records that so many messages left no result before their lease ran out.
func (r *Recorder) LeasesExpired(messages int) {
	if r != nil {
		r.leaseExpiries.Add(context.Background(), int64(messages))
	}
}

// Freed records that a message is in flight no more.
func (r *Recorder) Freed() {
	if r != nil {
		r.inFlight.Add(context.Background(), -1)
	}
}

// Started records a start: ResultNew, ResultRunning or ResultFailed.
func (r *Recorder) Started(result string, took time.Duration) {
	if r == nil {
		return
	}
	ctx := context.Background()
	r.starts.Add(ctx, 1, labels(keyResult.String(result)))
	r.startDuration.Record(ctx, took.Seconds())
}

// Published records attempts to publish so many messages in a request that took so long. path is "fast",
// "durable" or "stream"; result is "acknowledged", or the failure's type, as the attempts' spans have it.
func (r *Recorder) Published(destination, path, result string, messages int, took time.Duration) {
	if r == nil {
		return
	}
	ctx := context.Background()
	r.publishes.Add(ctx, int64(messages), labels(r.target(destination), keyPath.String(path), keyResult.String(result)))
	scheme := labels(keyScheme.String(outbox.SchemeOf(destination)), keyPath.String(path))
	for range messages {
		r.publishTime.Record(ctx, took.Seconds(), scheme)
	}
}

// Batch records one request with so many messages to a broker.
func (r *Recorder) Batch(scheme string, messages int, took time.Duration, err error) {
	if r == nil {
		return
	}
	ctx, result := context.Background(), resultOK
	if err != nil {
		result = ResultFailed
	}
	r.batchMessages.Record(ctx, int64(messages), labels(keyScheme.String(scheme)))
	r.batchDuration.Record(ctx, took.Seconds(), labels(keyScheme.String(scheme), keyResult.String(result)))
}

// Ended records an end that was written. Both times are the database's.
func (r *Recorder) Ended(o outflow.Outcome) {
	if r == nil {
		return
	}
	ctx := context.Background()
	r.ended.Add(ctx, 1, labels(r.target(o.Destination), keyState.String(string(o.State))))
	if o.State == outflow.Delivered && !o.DueAt.IsZero() {
		r.delivery.Record(ctx, max(o.FinishedAt.Sub(o.DueAt), 0).Seconds(),
			labels(keyScheme.String(outbox.SchemeOf(o.Destination))))
	}
}

// Callback records an attempt to send a callback: ResultSent, ResultRetried or
// ResultFailed.
func (r *Recorder) Callback(result string) {
	if r != nil {
		r.callbacks.Add(context.Background(), 1, labels(keyResult.String(result)))
	}
}

// Purged records messages of a state that a purge removed.
func (r *Recorder) Purged(state outflow.State, messages int) {
	if r != nil {
		r.purged.Add(context.Background(), int64(messages), labels(keyState.String(string(state))))
	}
}

// PurgeEnded records the end of a purge; more says that its time was over first.
func (r *Recorder) PurgeEnded(more bool, err error) {
	if r == nil {
		return
	}
	ctx, result := context.Background(), resultOK
	switch {
	case errors.Is(err, context.Canceled): // its worker stops, and another goes on
		result = ResultUnfinished
	case err != nil:
		result = ResultFailed
	case more:
		result = ResultUnfinished
	default:
		r.purgeCompleted.Record(ctx, float64(time.Now().UnixMilli())/1000)
	}
	r.purges.Add(ctx, 1, labels(keyResult.String(result)))
}

func (r *Recorder) target(destination string) attribute.KeyValue {
	return keyTarget.String(r.targets.label(outflow.DisplayDestination(outbox.TargetOf(destination))))
}
