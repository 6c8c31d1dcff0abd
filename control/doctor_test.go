package control

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outboxdb"
)

// healthy is what a doctor likes; a test spoils it.
type healthy struct {
	migrations   []outboxdb.MigrationStatus
	silent       error // the database does not answer
	health       outboxdb.Health
	healthErr    error
	destinations []string
	dead         []outboxdb.PhaseCount
	deadErr      error
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
	return h.migrations, h.silent
}
func (h *healthy) Health(context.Context) (outboxdb.Health, error) { return h.health, h.healthErr }
func (h *healthy) PendingDestinations(context.Context, int) ([]string, error) {
	return h.destinations, h.listing
}
func (h *healthy) Dead(context.Context) ([]outboxdb.PhaseCount, error) { return h.dead, h.deadErr }
func (h *healthy) Hears(context.Context) (bool, error)                 { return !h.deaf, h.standby }
func (h *healthy) SearchAttributes(context.Context) (map[string]enums.IndexedValueType, error) {
	return h.types, h.refusal
}
func (h *healthy) Pollers(context.Context, string) (int, int, error) {
	return h.workflows, h.activities, h.pollers
}

// examined are the findings about what a doctor likes, once it is spoilt, each as
// level, check and text. The time stands still.
func examined(t *testing.T, spoil func(h *healthy, p *Patient)) (findings []Finding, lines []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := &healthy{
			migrations: []outboxdb.MigrationStatus{{Version: 1, Name: "0001_destinations", AppliedAt: time.Now()}},
			health:     outboxdb.Health{Clock: time.Now(), Role: "ops", Produces: true, Dispatches: true, Operates: true, SeesAll: true},
			types:      having(attributeNames()...), destinations: []string{"sqs://orders"}, workflows: 1, activities: 2,
		}
		p := Patient{Database: h, Namespace: h, Target: Target{Address: "localhost:7233", Namespace: "shop"}, TaskQueue: "outflow",
			Lookup: func(context.Context, string) error { return nil }}
		spoil(h, &p)
		Examine(t.Context(), p, func(f Finding) {
			findings = append(findings, f)
			lines = append(lines, string(f.Level)+" "+f.Check+" "+f.Text)
		})
	})
	return findings, lines
}

// Every check is made, and says so.
func TestExamineOfWhatIsWell(t *testing.T) {
	findings, lines := examined(t, func(*healthy, *Patient) {})
	assert.Equal(t, []string{
		"ok database answers",
		"ok schema 1 migrations are applied",
		"ok rights role ops may enqueue, may run the daemons, may operate",
		"ok clock this host and the database agree within 0s",
		"ok snapshots none is older than 5m0s",
		"ok dead no dead message waits for somebody",
		"ok temporal localhost:7233, namespace shop answers",
		"ok attributes OutflowDestination, OutflowType, OutflowState are there",
		"ok workers task queue outflow has 1 pollers of workflow tasks, 2 of activities",
		"ok destinations sqs://orders is there",
		"ok notify notifications arrive",
	}, lines)
	for _, f := range findings {
		assert.Empty(t, f.Remedy, f.Check)
	}
}

// What can't be asked is told once, and the rest is looked at all the same.
func TestExamineGoesOn(t *testing.T) {
	_, lines := examined(t, func(h *healthy, _ *Patient) { h.silent, h.standby = errAway, errAway })
	assert.Equal(t, []string{
		"fail database connection refused",
		"ok temporal localhost:7233, namespace shop answers",
		"ok attributes OutflowDestination, OutflowType, OutflowState are there",
		"ok workers task queue outflow has 1 pollers of workflow tasks, 2 of activities",
		"skip destinations the table could not be read",
		"warn notify connection refused",
	}, lines)
	_, lines = examined(t, func(h *healthy, p *Patient) { h.healthErr, p.NamespaceErr = errAway, errAway })
	assert.Equal(t, []string{
		"ok database answers",
		"ok schema 1 migrations are applied",
		"fail rights connection refused",
		"fail temporal localhost:7233, namespace shop: connection refused",
		"ok destinations sqs://orders is there",
		"ok notify notifications arrive",
	}, lines)
}

func TestExamine(t *testing.T) {
	const (
		ask       = "outflow grants -operator ROLE prints the rights that it needs"
		reach     = "check TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE and its credentials"
		reachSQS  = "check AWS_REGION, the credentials and their policy"
		listenOn  = "have programs that wait (outboxdb.NewWaiter) listen on a connection past the transaction pooler: outboxdb.ListenOn"
		noStandby = "check DATABASE_URL, and that the server is no standby"
	)
	for name, c := range map[string]struct {
		spoil  func(h *healthy, p *Patient)
		want   string // level, check and part of the text of one finding; nothing else fails or warns
		remedy string // the whole of it
	}{
		"no database setting": {func(_ *healthy, p *Patient) { p.Database, p.DatabaseErr = nil, errors.New("DATABASE_URL: wants") },
			"fail database DATABASE_URL: wants", "set DATABASE_URL to the application's database"},
		"the database does not answer": {func(h *healthy, _ *Patient) { h.silent = errAway },
			"fail database connection refused", "check DATABASE_URL, the server, and its rights"},
		"a migration is missing": {func(h *healthy, _ *Patient) { h.migrations[0].AppliedAt = time.Time{} },
			"fail schema not applied by outflow: 0001_destinations", "outflow migrate up (or run the missing files with the tool that runs yours)"},
		"the role sees nothing": {func(h *healthy, _ *Patient) { h.healthErr = errAway }, "fail rights connection refused", ask},
		"the role may little": {func(h *healthy, _ *Patient) { h.health.Operates = false },
			"warn rights may not operate", "outflow grants -operator ops prints what it needs to operate"},
		"the clock is off": {func(h *healthy, _ *Patient) { h.health.Clock = time.Now().Add(time.Minute) },
			"warn clock this host and the database are 1m0s apart", "synchronise both clocks; deliveries use the database's alone, but logs will not match"},
		"the clock is off a little": {func(h *healthy, _ *Patient) { h.health.Clock = time.Now().Add(-5 * time.Second) },
			"ok clock this host and the database agree within 5s", ""},
		"an old snapshot": {func(h *healthy, _ *Patient) {
			h.health.Snapshots = []outflow.HeldSnapshot{{Holder: "session", Name: "psql", Seconds: 299}, {Holder: "session", Name: "a report", PID: 7, Seconds: 3600}}
		}, `warn snapshots session 7 of application "a report", user "" has held a snapshot for 1h0m0s`, "end its transaction, or SELECT pg_terminate_backend(7)"},
		"a prepared transaction": {func(h *healthy, _ *Patient) {
			h.health.Snapshots = []outflow.HeldSnapshot{{Holder: "prepared transaction", Name: "tx-1", Seconds: 300}}
		}, `warn snapshots prepared transaction "tx-1" has held a snapshot for 5m0s`, "COMMIT PREPARED or ROLLBACK PREPARED it"},
		"a slot of unknown age": {func(h *healthy, _ *Patient) {
			h.health.Snapshots = []outflow.HeldSnapshot{{Holder: "replication slot", Name: "standby", Seconds: -1, Transactions: 2_000_000}}
		}, `warn snapshots replication slot "standby" has held a snapshot for an unknown time`, "let its consumer catch up, or drop it with pg_drop_replication_slot"},
		"only one's own sessions": {func(h *healthy, _ *Patient) { h.health.SeesAll = false }, "ok snapshots pg_read_all_stats", ""},
		"no Temporal": {func(_ *healthy, p *Patient) { p.NamespaceErr = errAway },
			"fail temporal localhost:7233, namespace shop: connection refused", reach},
		"no Temporal setting": {func(_ *healthy, p *Patient) {
			p.Target, p.NamespaceErr = Target{}, errors.New("TEMPORAL_ADDRESS: wants host:port")
		}, "fail temporal TEMPORAL_ADDRESS: wants host:port", "set what the text names"},
		"no namespace": {func(h *healthy, _ *Patient) { h.refusal = serviceerror.NewNamespaceNotFound("shop") },
			"fail temporal shop", "check TEMPORAL_NAMESPACE, or create it: temporal operator namespace create --namespace shop"},
		"Temporal goes away": {func(h *healthy, _ *Patient) { h.refusal = errAway },
			"fail temporal localhost:7233, namespace shop: connection refused", reach},
		"pollers can't be seen": {func(h *healthy, _ *Patient) { h.pollers = errAway },
			"warn workers could not be looked at: connection refused", "check the identity's rights in the namespace, and ask again"},
		"no list of destinations": {func(h *healthy, _ *Patient) { h.listing = errAway }, "warn destinations connection refused", ask},
		"a queue that does not answer": {func(_ *healthy, p *Patient) {
			p.Lookup = func(context.Context, string) error { return context.DeadlineExceeded }
		}, "warn destinations sqs://orders: no answer in time", "check the endpoint, AWS_REGION and the network"},
		"may not list attributes": {func(h *healthy, _ *Patient) { h.refusal = denied }, "skip attributes may not list", ""},
		"no attributes":           {func(h *healthy, _ *Patient) { delete(h.types, "OutflowType") }, "warn attributes OutflowType missing", "outflow setup"},
		"attributes of another type": {func(h *healthy, _ *Patient) { h.types["OutflowState"] = enums.INDEXED_VALUE_TYPE_TEXT },
			"warn attributes OutflowState missing", "outflow setup"},
		"no workers": {func(h *healthy, _ *Patient) { h.workflows = 0 },
			"fail workers nobody polls task queue outflow (workflow tasks: 0 pollers, activities: 2)", "start outflow-starter and outflow-worker, with this OUTFLOW_TASK_QUEUE and namespace"},
		"no workers of activities": {func(h *healthy, _ *Patient) { h.activities = 0 },
			"fail workers nobody polls task queue outflow (workflow tasks: 1 pollers, activities: 0)", "start outflow-starter and outflow-worker, with this OUTFLOW_TASK_QUEUE and namespace"},
		"no queue": {func(_ *healthy, p *Patient) {
			p.Lookup = func(context.Context, string) error { return outflow.Permanent(errors.New("no such queue")) }
		}, "fail destinations no such queue", "create the queue, or outflow redirect its messages"},
		"no right": {func(_ *healthy, p *Patient) {
			p.Lookup = func(context.Context, string) error { return outflow.Unavailable(errors.New("AccessDenied")) }
		}, "warn destinations AccessDenied", reachSQS},
		"no AWS": {func(_ *healthy, p *Patient) { p.Lookup, p.NoLookup = nil, "AWS_REGION is not set" }, "skip destinations AWS_REGION is not set", ""},
		"others": {func(h *healthy, _ *Patient) { h.destinations = []string{"https://shop.example/in"} }, "skip destinations 1 that are no SQS queues", ""},
		"dead messages": {func(h *healthy, _ *Patient) {
			h.dead = []outboxdb.PhaseCount{{Destination: "https://shop.example/in?a=1&b=2", Messages: 3, LastError: "no such queue"}}
		}, "warn dead https://shop.example/in?a=1&b=2: 3 dead, such as: no such queue", "mend the cause, then outflow retry -state dead -destination 'https://shop.example/in?a=1&b=2'; or let them go: outflow dismiss, with the same filter"},
		"the dead can't be counted":    {func(h *healthy, _ *Patient) { h.deadErr = errAway }, "warn dead connection refused", ask},
		"a pooler drops notifications": {func(h *healthy, _ *Patient) { h.deaf = true }, "warn notify do not arrive", listenOn},
		"nobody may listen":            {func(h *healthy, _ *Patient) { h.standby = errAway }, "warn notify connection refused", noStandby},
		"nothing pending":              {func(h *healthy, _ *Patient) { h.destinations = nil }, "ok destinations no message is pending", ""},
	} {
		t.Run(name, func(t *testing.T) {
			findings, lines := examined(t, c.spoil)
			level, check, part := cutTwice(c.want)
			var found, bad []Finding
			for _, f := range findings {
				if f.Level == Fail || f.Level == Warn {
					bad = append(bad, f)
				}
				if string(f.Level) == level && f.Check == check && strings.Contains(f.Text, part) {
					found = append(found, f)
					assert.Equal(t, c.remedy, f.Remedy)
				}
			}
			assert.Len(t, found, 1, "%s in %v", c.want, lines)
			if level == string(Fail) || level == string(Warn) {
				assert.Equal(t, found, bad, "%v", lines)
			} else {
				assert.Empty(t, bad, "%v", lines)
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
