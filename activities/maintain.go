package activities

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.temporal.io/sdk/activity"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/metrics"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/outbox"
)

// How a purge leaves room for deliveries.
const (
	// maxChunkRows is the largest chunk, some ten milliseconds of work. A chunk that takes longer
	// than slowChunk (large payloads, a busy disk) halves the next one.
	maxChunkRows = 1000
	slowChunk    = 250 * time.Millisecond
	// A purge works one part in purgeShare of the time. Nine tenths of the database's CPU, disk and
	// log are left to deliveries, whatever a chunk costs.
	purgeShare = 10
	// minPause lets the write-ahead log and the replicas catch up after the quickest chunk.
	minPause = 20 * time.Millisecond

	// auditRetention and idleRetention are for the small tables.
	auditRetention = 365 * 24 * time.Hour
	idleRetention  = 30 * 24 * time.Hour
	// Ordering keys may be as many as messages. A key that is used again costs a row.
	keyRetention = 24 * time.Hour

	// HeldTooLong is the age from which a held snapshot is logged as a warning.
	HeldTooLong = 15 * time.Minute
)

// Maintenance is the table as a purge uses it; outboxdb.Store is one. Each call is one statement,
// and may be repeated. A statement that is too slow returns an error that is
// context.DeadlineExceeded.
type Maintenance interface {
	PurgeMessages(ctx context.Context, p outbox.Purge) (outbox.Purged, error)
	PurgeAudit(ctx context.Context, olderThan time.Duration, limit int) (int, error)
	PurgeDestinations(ctx context.Context, idle time.Duration, limit int) (int, error)
	PurgeKeys(ctx context.Context, idle time.Duration, limit int) (int, error)
	TableHealth(ctx context.Context, heldFor time.Duration) (outbox.TableHealth, error)
	Identity
}

// MaintenanceActivities is the set of activities that keeps the table small.
type MaintenanceActivities struct {
	store   Maintenance
	owner   *ownership
	clock   clock
	metrics *metrics.Recorder
}

// MaintenanceOption changes what NewMaintenance returns.
type MaintenanceOption func(*MaintenanceActivities)

// MaintainOutbox is ForOutbox for maintenance.
func MaintainOutbox(name string) MaintenanceOption {
	return func(a *MaintenanceActivities) { a.owner.outbox = name }
}

// MaintainMeterProvider is WithMeterProvider for maintenance.
func MaintainMeterProvider(p metric.MeterProvider) MaintenanceOption {
	return func(a *MaintenanceActivities) { a.metrics = metrics.New(p) }
}

// NewMaintenance returns the activities over a store.
func NewMaintenance(store Maintenance, options ...MaintenanceOption) *MaintenanceActivities {
	a := &MaintenanceActivities{store: store, owner: &ownership{identity: store}, clock: monotonic{}}
	for _, option := range options {
		option(a)
	}
	if a.metrics == nil {
		a.metrics = metrics.New(nil)
	}
	return a
}

// HealthInput is the input of TableHealth.
type HealthInput struct {
	Owner
}

// TableHealth reads what decides whether the table stays fast, and logs a warning for each snapshot
// that is held too long.
func (a *MaintenanceActivities) TableHealth(ctx context.Context, in HealthInput) (outbox.TableHealth, error) {
	if err := a.owner.check(ctx, in.Owner); err != nil {
		return outbox.TableHealth{}, err
	}
	health, err := a.store.TableHealth(ctx, HeldTooLong)
	if err != nil {
		return outbox.TableHealth{}, err
	}
	for _, h := range health.Held {
		activity.GetLogger(ctx).Warn("a held snapshot keeps the outbox table from being vacuumed",
			"holder", h.Holder, "pid", h.PID, "application", h.Name,
			"seconds", h.Seconds, "transactions", h.Transactions, "advice", h.Advice())
	}
	return health, nil
}

// PurgeInput is the input of Purge.
type PurgeInput struct {
	Owner
	Retention outflow.Retention `json:"retention"`
}

// PurgeResult says what a purge deleted.
type PurgeResult struct {
	Delivered int `json:"delivered"`
	// Dead counts dismissed messages too.
	Dead      int `json:"dead"`
	Expired   int `json:"expired"`
	Cancelled int `json:"cancelled"`
	// Moved of these messages are in outbox.history now.
	Moved int `json:"moved"`
	// Audit, Destinations and Keys (ordering keys) are rows of the small tables.
	Audit        int `json:"audit"`
	Destinations int `json:"destinations"`
	Keys         int `json:"keys,omitempty"`
	// More: the time was over first. The next run goes on.
	More bool `json:"more"`
}

// Purge deletes rows that are older than the retention: a chunk of each kind in turn, with a pause
// after each. It ends when nothing is left or timing.Purge is over. An attempt that takes over from
// another one adds to its counts.
func (a *MaintenanceActivities) Purge(ctx context.Context, in PurgeInput) (result PurgeResult, err error) {
	if err := a.owner.check(ctx, in.Owner); err != nil {
		return PurgeResult{}, err
	}
	defer func() { a.metrics.PurgeEnded(result.More, err) }()
	p := &purging{
		store: a.store, clock: a.clock, retention: in.Retention, metrics: a.metrics, limit: maxChunkRows,
	}
	if activity.HasHeartbeatDetails(ctx) {
		_ = activity.GetHeartbeatDetails(ctx, &p.done) // without them it counts from zero
	}
	p.done.More = false
	kinds := p.kinds()
	for over := a.clock.Now().Add(timing.Purge); len(kinds) > 0; {
		if !a.clock.Now().Before(over) {
			p.done.More = true
			return p.done, nil
		}
		next := kinds[0]
		kinds = kinds[1:]
		more, err := p.chunk(ctx, next)
		if err != nil {
			return PurgeResult{}, err
		}
		if more {
			kinds = append(kinds, next)
		}
	}
	return p.done, nil
}

// purging is one Purge under way.
type purging struct {
	store     Maintenance
	clock     clock
	retention outflow.Retention
	metrics   *metrics.Recorder
	limit     int
	done      PurgeResult
}

// kind deletes up to limit rows of its kind and returns their number.
type kind func(ctx context.Context, limit int) (int, error)

// kinds returns the kinds of rows to purge.
func (p *purging) kinds() []kind {
	small := func(count *int, purge func(context.Context, time.Duration, int) (int, error), age time.Duration) kind {
		return func(ctx context.Context, limit int) (int, error) {
			n, err := purge(ctx, age, limit)
			*count += n
			return n, err
		}
	}
	all := []kind{
		small(&p.done.Audit, p.store.PurgeAudit, auditRetention),
		small(&p.done.Destinations, p.store.PurgeDestinations, idleRetention),
		small(&p.done.Keys, p.store.PurgeKeys, keyRetention),
	}
	for _, s := range []struct {
		state     outflow.State
		dismissed bool
		keep      outflow.Keep
		count     *int
	}{
		{outflow.Cancelled, false, p.retention.Cancelled, &p.done.Cancelled},
		{outflow.Expired, false, p.retention.Expired, &p.done.Expired},
		{outflow.Dead, true, p.retention.Cancelled, &p.done.Dead},
		{outflow.Dead, false, p.retention.Dead, &p.done.Dead},
		{outflow.Delivered, false, p.retention.Delivered, &p.done.Delivered},
	} {
		if s.keep != outflow.Forever {
			purge := outbox.Purge{State: s.state, Dismissed: s.dismissed, OlderThan: time.Duration(s.keep)}
			all = append(all, p.messages(purge, s.count))
		}
	}
	return all
}

// messages purges the messages of one state. Each chunk begins where the last one ended.
func (p *purging) messages(old outbox.Purge, count *int) kind {
	old.History = p.retention.History
	return func(ctx context.Context, limit int) (int, error) {
		old.Limit = limit
		purged, err := p.store.PurgeMessages(ctx, old)
		if err != nil {
			return 0, err
		}
		old.After = purged.UpTo
		*count += purged.Rows
		p.metrics.Purged(old.State, purged.Rows)
		if p.retention.History {
			p.done.Moved += purged.Rows
		}
		return purged.Rows, nil
	}
}

// chunk runs one statement, rests, and reports whether there may be more.
func (p *purging) chunk(ctx context.Context, purge kind) (more bool, err error) {
	limit, began := p.limit, p.clock.Now()
	n, err := purge(ctx, limit)
	took := p.clock.Now().Sub(began)
	switch {
	case err != nil && errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil && limit > 1:
		p.limit = max(limit/10, 1) // it was rolled back
		more = true
	case err != nil:
		return false, fmt.Errorf("after %s: %w", p.done, err)
	default:
		more = n == limit
		if took > slowChunk {
			p.limit = max(limit/2, 1)
		} else if took < slowChunk/4 {
			p.limit = min(2*limit, maxChunkRows)
		}
	}
	activity.RecordHeartbeat(ctx, p.done)
	if !more && n == 0 {
		return false, nil
	}
	return more, p.rest(ctx, max((purgeShare-1)*took, minPause))
}

// errStopping is a cancellation, and no failure.
var errStopping = fmt.Errorf("%w: the worker stops; another one goes on", context.Canceled)

// rest waits, and sends heartbeats meanwhile.
func (p *purging) rest(ctx context.Context, d time.Duration) error {
	for ; d > 0; d -= timing.PurgeHeartbeatInterval {
		select {
		case <-p.clock.After(min(d, timing.PurgeHeartbeatInterval)):
			activity.RecordHeartbeat(ctx, p.done)
		case <-activity.GetWorkerStopChannel(ctx):
			return errStopping
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (r PurgeResult) String() string {
	return fmt.Sprintf("%d delivered, %d dead, %d expired and %d cancelled messages",
		r.Delivered, r.Dead, r.Expired, r.Cancelled)
}

// clock measures durations. Tests have one that does not wait.
type clock interface {
	Now() time.Time
	After(d time.Duration) <-chan time.Time
}

type monotonic struct{}

func (monotonic) Now() time.Time                         { return time.Now() }
func (monotonic) After(d time.Duration) <-chan time.Time { return time.After(d) }
