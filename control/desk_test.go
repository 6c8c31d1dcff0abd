package control

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outboxdb"
)

// noTemporal is a Temporal that can't be reached.
type noTemporal struct{ asked int }

var errAway = errors.New("connection refused")

func (n *noTemporal) Describe(context.Context, string) (Run, error) { n.asked++; return Run{}, errAway }
func (n *noTemporal) Cancel(context.Context, string) error          { n.asked++; return errAway }
func (n *noTemporal) TryNow(context.Context, string) error          { n.asked++; return errAway }

// oneRow is a table with one message; acts answer as they are told.
type oneRow struct {
	mu   sync.Mutex
	row  outboxdb.Standing
	done bool
}

func (o *oneRow) set(row outboxdb.Standing) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.row = row
}

func (o *oneRow) change() outboxdb.Change {
	return outboxdb.Change{Standing: o.row, Found: o.row.ID != uuid.Nil, Done: o.done, NewState: o.row.State, NewGeneration: o.row.Generation}
}

func (o *oneRow) Retry(context.Context, []uuid.UUID, outboxdb.By) ([]outboxdb.Change, error) {
	return []outboxdb.Change{o.change()}, nil
}

func (o *oneRow) Release(context.Context, outflow.Ref, time.Time, outboxdb.By) (outboxdb.Change, error) {
	panic("only a message without a run is released")
}

func (o *oneRow) RequestCancel(context.Context, []uuid.UUID, outboxdb.By) ([]outboxdb.Change, error) {
	return []outboxdb.Change{o.change()}, nil
}

func (o *oneRow) EndCancelled(context.Context, outflow.Ref, outboxdb.By) (outboxdb.Change, error) {
	panic("only a message without a run is ended")
}

func (o *oneRow) Show(context.Context, uuid.UUID) (outboxdb.Standing, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.row.ID == uuid.Nil {
		return outboxdb.Standing{}, outflow.ErrNotFound
	}
	return o.row, nil
}

func standing(state outflow.State, phase string) outboxdb.Standing {
	return outboxdb.Standing{ID: uuid.New(), State: state, Phase: phase, Generation: 1, Retrying: phase == "retrying",
		DueAt: time.Date(2026, 1, 31, 8, 0, 0, 0, time.UTC)}
}

func TestRetryAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		row     outboxdb.Standing
		done    bool
		verdict Verdict
		text    string
		asked   int
	}{
		"none":      {outboxdb.Standing{}, false, Refused, "not found", 0},
		"dead":      {standing(outflow.Dead, "dead"), true, Done, "was dead, pending again", 0},
		"delivered": {standing(outflow.Delivered, "delivered"), false, Refused, `delivered: "outflow resend" sends a copy`, 0},
		"delayed":   {standing(outflow.Pending, "delayed"), false, Refused, `pending, due at 2026-01-31T08:00:00Z: "outflow reschedule" changes that`, 0},
		"leased":    {standing(outflow.Pending, "leased"), false, Refused, "pending: it is being delivered", 0},
		"due":       {standing(outflow.Pending, "due"), false, Refused, "pending: it is due and waits for a scanner", 0},
		"retrying":  {standing(outflow.Pending, "retrying"), false, Failed, "retrying: its run could not be told: connection refused", 1},
	} {
		t.Run(name, func(t *testing.T) {
			runs := &noTemporal{}
			answers, err := Desk{Runs: runs, Outbox: "outbox"}.Retry(t.Context(), &oneRow{row: c.row, done: c.done}, []uuid.UUID{c.row.ID})
			require.NoError(t, err)
			require.Len(t, answers, 1)
			assert.Equal(t, c.verdict, answers[0].Verdict)
			assert.Equal(t, c.text, answers[0].Text)
			assert.Equal(t, c.asked, runs.asked)
		})
	}
}

// Without Temporal the request stands in the row, nothing is ended, and what the
// run makes of it is reported.
func TestCancelWithoutTemporal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pending := standing(outflow.Pending, "leased")
		pending.CancelRequested, pending.Available = true, true
		table := &oneRow{row: pending, done: true}
		desk := Desk{Runs: &noTemporal{}, Outbox: "outbox"}
		began := time.Now()
		answers, err := desk.Cancel(t.Context(), table, []uuid.UUID{pending.ID}, 5*time.Second)
		require.NoError(t, err)
		assert.Equal(t, Failed, answers[0].Verdict)
		assert.Equal(t, "requested: the next look of its run ends it; now that could not be told: connection refused", answers[0].Text)
		assert.Equal(t, 5*time.Second, time.Since(began))

		for state, text := range map[outflow.State]string{
			outflow.Cancelled: "cancelled", outflow.Delivered: "too late: delivered", outflow.Dead: "too late: dead",
		} {
			table.set(pending)
			ended := pending
			ended.State = state
			ends := time.AfterFunc(2*time.Second, func() { table.set(ended) })
			answers, err = desk.Cancel(t.Context(), table, []uuid.UUID{pending.ID}, 5*time.Second)
			require.NoError(t, err)
			assert.Equal(t, text, answers[0].Text)
			ends.Stop()
		}
		table.set(pending)
		anew := pending
		anew.CancelRequested = false
		time.AfterFunc(time.Second, func() { table.set(anew) })
		answers, err = desk.Cancel(t.Context(), table, []uuid.UUID{pending.ID}, 5*time.Second)
		require.NoError(t, err)
		assert.Equal(t, "too late: it was started anew meanwhile", answers[0].Text)

		table.set(pending)
		time.AfterFunc(time.Second, func() { table.set(outboxdb.Standing{}) })
		answers, err = desk.Cancel(t.Context(), table, []uuid.UUID{pending.ID}, 5*time.Second)
		require.NoError(t, err)
		assert.Equal(t, "not found", answers[0].Text, "purged meanwhile")

		table.set(pending)
		stopping, stop := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { stop(errors.New("interrupt")) })
		_, err = desk.Cancel(stopping, table, []uuid.UUID{pending.ID}, time.Minute)
		require.ErrorContains(t, err, "which stay marked: interrupt")
	})
}

func TestCancelAnswersAtOnce(t *testing.T) {
	for state, text := range map[outflow.State]string{
		outflow.Cancelled: "cancelled before", outflow.Delivered: "too late: delivered", outflow.Expired: "too late: expired",
	} {
		runs := &noTemporal{}
		row := standing(state, string(state))
		answers, err := Desk{Runs: runs}.Cancel(t.Context(), &oneRow{row: row}, []uuid.UUID{row.ID}, time.Minute)
		require.NoError(t, err)
		assert.Equal(t, text, answers[0].Text)
		assert.Equal(t, state == outflow.Cancelled, answers[0].Verdict == Done)
		assert.Zero(t, runs.asked)
	}
}

// healthy is what a doctor likes; a test spoils it.
type healthy struct {
	migrations   []outboxdb.MigrationStatus
	health       outboxdb.Health
	destinations []string
	dead         []outboxdb.PhaseCount
	deaf         bool
	standby      error
	types        map[string]enums.IndexedValueType
	refusal      error
	pollers      error
	listing      error
	workflows    int
	activities   int
}

func (h *healthy) Migrations(context.Context) ([]outboxdb.MigrationStatus, error) {
	return h.migrations, nil
}
func (h *healthy) Health(context.Context) (outboxdb.Health, error) { return h.health, nil }
func (h *healthy) PendingDestinations(context.Context, int) ([]string, error) {
	return h.destinations, h.listing
}
func (h *healthy) Dead(context.Context) ([]outboxdb.PhaseCount, error) { return h.dead, nil }
func (h *healthy) Hears(context.Context) (bool, error)                 { return !h.deaf, h.standby }
func (h *healthy) SearchAttributes(context.Context) (map[string]enums.IndexedValueType, error) {
	return h.types, h.refusal
}
func (h *healthy) Pollers(context.Context, string) (int, int, error) {
	return h.workflows, h.activities, h.pollers
}

func TestExamine(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(h *healthy, p *Patient)
		want  string // level, check and part of the text of one finding; nothing else fails or warns
	}{
		"all is well": {func(*healthy, *Patient) {}, "ok schema 1 migrations are applied"},
		"no database setting": {func(_ *healthy, p *Patient) { p.Database, p.DatabaseErr = nil, errors.New("DATABASE_URL: wants") },
			"fail database DATABASE_URL: wants"},
		"a migration is missing": {func(h *healthy, _ *Patient) { h.migrations[0].AppliedAt = time.Time{} }, "fail schema not applied by outflow: 0001_messages"},
		"the role may little":    {func(h *healthy, _ *Patient) { h.health.Operates = false }, "warn rights may not operate"},
		"the clock is off":       {func(h *healthy, _ *Patient) { h.health.Clock = time.Now().Add(time.Minute) }, "warn clock apart"},
		"an old snapshot": {func(h *healthy, _ *Patient) {
			h.health.Snapshots = []outflow.HeldSnapshot{{Holder: "session", Name: "psql", Seconds: 299}, {Holder: "session", Name: "a report", PID: 7, Seconds: 3600}}
		}, `warn snapshots session 7 of application "a report", user "" has held a snapshot for 1h0m0s`},
		"a prepared transaction": {func(h *healthy, _ *Patient) {
			h.health.Snapshots = []outflow.HeldSnapshot{{Holder: "prepared transaction", Name: "tx-1", Seconds: 300}}
		}, `warn snapshots prepared transaction "tx-1" has held a snapshot for 5m0s`},
		"a slot of unknown age": {func(h *healthy, _ *Patient) {
			h.health.Snapshots = []outflow.HeldSnapshot{{Holder: "replication slot", Name: "standby", Seconds: -1, Transactions: 2_000_000}}
		}, `warn snapshots replication slot "standby" has held a snapshot for an unknown time`},
		"only one's own sessions": {func(h *healthy, _ *Patient) { h.health.SeesAll = false }, "ok snapshots pg_read_all_stats"},
		"no Temporal":             {func(_ *healthy, p *Patient) { p.NamespaceErr = errAway }, "fail temporal localhost:7233, namespace shop: connection refused"},
		"no Temporal setting": {func(_ *healthy, p *Patient) {
			p.Target, p.NamespaceErr = Target{}, errors.New("TEMPORAL_ADDRESS: wants host:port")
		}, "fail temporal TEMPORAL_ADDRESS: wants host:port"},
		"no namespace":            {func(h *healthy, _ *Patient) { h.refusal = serviceerror.NewNamespaceNotFound("shop") }, "fail temporal shop"},
		"pollers can't be seen":   {func(h *healthy, _ *Patient) { h.pollers = errAway }, "warn workers could not be looked at: connection refused"},
		"no list of destinations": {func(h *healthy, _ *Patient) { h.listing = errAway }, "warn destinations connection refused"},
		"a queue that does not answer": {func(_ *healthy, p *Patient) {
			p.Lookup = func(context.Context, string) error { return context.DeadlineExceeded }
		}, "warn destinations sqs://orders: no answer in time"},
		"may not list attributes": {func(h *healthy, _ *Patient) { h.refusal = denied }, "skip attributes may not list"},
		"no attributes":           {func(h *healthy, _ *Patient) { delete(h.types, "OutflowType") }, "warn attributes OutflowType missing"},
		"no workers":              {func(h *healthy, _ *Patient) { h.workflows = 0 }, "fail workers nobody polls task queue outflow (workflow tasks: 0 pollers, activities: 2)"},
		"no queue": {func(_ *healthy, p *Patient) {
			p.Lookup = func(context.Context, string) error { return outflow.Permanent(errors.New("no such queue")) }
		}, "fail destinations no such queue"},
		"no right": {func(_ *healthy, p *Patient) {
			p.Lookup = func(context.Context, string) error { return outflow.Unavailable(errors.New("AccessDenied")) }
		}, "warn destinations AccessDenied"},
		"no AWS": {func(_ *healthy, p *Patient) { p.Lookup, p.NoLookup = nil, "AWS_REGION is not set" }, "skip destinations AWS_REGION is not set"},
		"others": {func(h *healthy, _ *Patient) { h.destinations = []string{"https://shop.example/in"} }, "skip destinations 1 that are no SQS queues"},
		"dead messages": {func(h *healthy, _ *Patient) {
			h.dead = []outboxdb.PhaseCount{{Destination: "sqs://orders", Messages: 3, LastError: "no such queue"}}
		}, "warn dead sqs://orders: 3 dead, such as: no such queue"},
		"a pooler drops notifications": {func(h *healthy, _ *Patient) { h.deaf = true }, "warn notify do not arrive"},
		"nobody may listen":            {func(h *healthy, _ *Patient) { h.standby = errAway }, "warn notify connection refused"},
		"notifications":                {func(*healthy, *Patient) {}, "ok notify notifications arrive"},
		"none dead":                    {func(*healthy, *Patient) {}, "ok dead no message is dead"},
		"nothing pending":              {func(h *healthy, _ *Patient) { h.destinations = nil }, "ok destinations no message is pending"},
	} {
		t.Run(name, func(t *testing.T) {
			h := &healthy{
				migrations: []outboxdb.MigrationStatus{{Version: 1, Name: "0001_messages", AppliedAt: time.Now()}},
				health:     outboxdb.Health{Clock: time.Now(), Role: "ops", Produces: true, Dispatches: true, Operates: true, SeesAll: true},
				types:      having(attributeNames()...), destinations: []string{"sqs://orders"}, workflows: 1, activities: 2,
			}
			p := Patient{Database: h, Namespace: h, Target: Target{Address: "localhost:7233", Namespace: "shop"}, TaskQueue: "outflow",
				Lookup: func(context.Context, string) error { return nil }}
			c.spoil(h, &p)
			var bad, all []string
			Examine(t.Context(), p, func(f Finding) {
				line := string(f.Level) + " " + f.Check + " " + f.Text
				all = append(all, line)
				if f.Level == Fail || f.Level == Warn {
					bad = append(bad, line)
					assert.NotEmpty(t, f.Remedy, "what to do about %s", line)
				}
			})
			found := 0
			level, rest, _ := cutTwice(c.want)
			for _, line := range all {
				l, r, text := cutTwice(line)
				if l == level && r == rest && containsText(text, c.want) {
					found++
				}
			}
			assert.Equal(t, 1, found, "%s in %v", c.want, all)
			if level == string(Fail) || level == string(Warn) {
				assert.Len(t, bad, 1)
			} else {
				assert.Empty(t, bad)
			}
		})
	}
}

// cutTwice cuts level, check and text.
func cutTwice(line string) (level, check, text string) {
	level, rest, _ := strings.Cut(line, " ")
	check, text, _ = strings.Cut(rest, " ")
	return level, check, text
}

func containsText(text, want string) bool {
	_, _, part := cutTwice(want)
	return strings.Contains(text, part)
}
