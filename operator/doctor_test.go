package operator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/namespace"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb/migrate"
)

// healthy is a database and a namespace without a problem; a test spoils one.
type healthy struct {
	applied      []migrate.Migration
	silent       error // the database does not answer
	server       health
	healthErr    error
	targets      []pendingTarget
	refs         []outbox.Ref // claimed messages
	refsErr      error
	id           uuid.UUID
	idErr        error
	schedule     namespace.FoundSchedule
	scheduleErr  error
	elsewhere    map[string]int
	elsewhereErr error
	stalled      string
	stalledErr   error
	deadCounts   []PhaseCount
	deadErr      error
	blocked      []BlockedKeys
	blockedErr   error
	stranded     int
	failing      []failingTarget
	failingErr   error
	callbacks    int // due callbacks that failed
	callbacksErr error
	running      []RunningProcess
	runningErr   error
	deaf         bool
	standby      error
	types        map[string]enums.IndexedValueType
	refusal      error
	pollers      error
	listing      error
	workflows    int
	activities   int
	kept         int64
	keptErr      error
	streams      []Stream
	streamsErr   error
	pages        oldPages
	pagesErr     error
	noStreamers  bool // no worker takes streams
}

func (h *healthy) Streams(context.Context) ([]Stream, error)  { return h.streams, h.streamsErr }
func (h *healthy) oldPages(context.Context) (oldPages, error) { return h.pages, h.pagesErr }

func (h *healthy) migrations(context.Context) ([]migrate.Migration, error) {
	return h.applied, h.silent
}
func (h *healthy) health(context.Context) (health, error) { return h.server, h.healthErr }
func (h *healthy) pendingTargets(context.Context, int) ([]pendingTarget, error) {
	return h.targets, h.listing
}
func (h *healthy) claimed(context.Context, int) ([]outbox.Ref, error) { return h.refs, h.refsErr }
func (h *healthy) databaseID(context.Context) (uuid.UUID, error)      { return h.id, h.idErr }
func (h *healthy) FindSchedule(context.Context, string) (namespace.FoundSchedule, error) {
	return h.schedule, h.scheduleErr
}
func (h *healthy) OtherTaskQueues(context.Context, string, string) (map[string]int, bool, error) {
	return h.elsewhere, false, h.elsewhereErr
}

// Stalled finds a run of the database theID.
func (h *healthy) Stalled(_ context.Context, _ string, database uuid.UUID, _ outbox.Ref) (string, string, error) {
	if database != theID {
		return "it is of database " + theID.String(), "end it", nil
	}
	if h.stalled == "" {
		return "", "", h.stalledErr
	}
	return h.stalled, "fix it", h.stalledErr
}
func (h *healthy) dead(context.Context) ([]PhaseCount, error)     { return h.deadCounts, h.deadErr }
func (h *healthy) Blocked(context.Context) ([]BlockedKeys, error) { return h.blocked, h.blockedErr }
func (h *healthy) strandedKeys(context.Context) (int, error)      { return h.stranded, nil }
func (h *healthy) failingTargets(context.Context, int) ([]failingTarget, error) {
	return h.failing, h.failingErr
}
func (h *healthy) failingCallbacks(context.Context) (int, string, error) {
	return h.callbacks, "no answer", h.callbacksErr
}
func (h *healthy) Running(context.Context) ([]RunningProcess, error)   { return h.running, h.runningErr }
func (h *healthy) retained(context.Context) (int, int64, error)        { return 1, h.kept, h.keptErr }
func (h *healthy) receivesNotifications(context.Context) (bool, error) { return !h.deaf, h.standby }
func (h *healthy) SearchAttributes(context.Context) (map[string]enums.IndexedValueType, error) {
	return h.types, h.refusal
}
func (h *healthy) Pollers(_ context.Context, taskQueue string) (int, int, error) {
	if h.noStreamers && strings.HasSuffix(taskQueue, "-streams") {
		return 0, 0, nil
	}
	return h.workflows, h.activities, h.pollers
}

// denied is what a server answers an identity without the right.
var denied = serviceerror.NewPermissionDenied("Request unauthorized.", "")

func having(names ...string) map[string]enums.IndexedValueType {
	types := map[string]enums.IndexedValueType{}
	for _, name := range names {
		types[name] = enums.INDEXED_VALUE_TYPE_KEYWORD
	}
	return types
}

var theID = uuid.MustParse("6f757466-6c6f-4077-8000-000000000001")

// pending are targets with three messages each.
func pending(destinations ...string) (targets []pendingTarget) {
	of := map[string]int{}
	for _, d := range destinations {
		scheme, _, _ := strings.Cut(d, "://")
		of[scheme]++
		targets = append(targets, pendingTarget{Scheme: scheme, Destination: d, Messages: 3})
	}
	for i := range targets {
		targets[i].OfScheme, targets[i].DueInScheme = of[targets[i].Scheme], true
	}
	return targets
}

func answers(err error) Lookup { return func(context.Context, string) error { return err } }

// missingQueue is what a look-up says of a queue that does not exist.
var missingQueue = outflow.Permanent(fmt.Errorf("looking up sqs://orders: %w", outflow.ErrNoDestination))

// examined returns the findings about healthy parts that spoil has changed, each also as level,
// check and text. The time stands still.
func examined(t *testing.T, spoil func(h *healthy, p *Subject)) (findings []Finding, lines []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := &healthy{
			applied: []migrate.Migration{{Version: 1, Name: "0001_destinations", AppliedAt: time.Now()}},
			server: health{Clock: time.Now(), Role: "ops", Produces: true, Dispatches: true, Operates: true,
				SeesAll: true, Encoding: "UTF8"},
			types: having(namespace.AttributeNames()...), targets: pending("sqs://orders"), workflows: 1, activities: 2,
			running: []RunningProcess{{Name: "outflow-starter", Host: "web-1", Schemes: []string{"https", "sqs"},
				Scans: true}},
			id: theID, schedule: namespace.FoundSchedule{TaskQueue: "outflow-outbox",
				Database: theID}, refs: []outbox.Ref{{ID: theID, Generation: 1}},
		}
		p := Subject{Target: namespace.Target{Address: "localhost:7233", Namespace: "shop"}, Outbox: "outbox",
			TaskQueue: "outflow-outbox",
			Lookups:   map[string]Lookup{"sqs": answers(nil), "https": answers(nil)},
			Advice: map[string]func(string, error) string{"sqs": func(destination string, err error) string {
				return "what to do about " + destination
			}}}
		spoil(h, &p)
		examine(t.Context(), p, h, h, func(f Finding) {
			findings = append(findings, f)
			lines = append(lines, string(f.Level)+" "+f.Check+" "+f.Text)
		})
	})
	return findings, lines
}

// Every check is made and reported.
func TestExamineHealthyParts(t *testing.T) {
	findings, lines := examined(t, func(*healthy, *Subject) {})
	assert.Equal(t, []string{
		"ok database answers",
		"ok schema 1 migrations are applied",
		"ok rights role ops may enqueue, may run the daemons, may operate",
		"ok clock this host and the database agree within 0s",
		"ok snapshots none is older than 5m0s",
		"ok dead no message is dead, but for dismissed ones",
		"ok order no ordering key is blocked",
		"ok temporal localhost:7233, namespace shop answers",
		"ok attributes OutflowDestination, OutflowType, OutflowState are there",
		"ok workers task queue outflow-outbox has 1 pollers of workflow tasks, 2 of activities",
		"ok schedule outbox/maintain maintains the table",
		"ok runs 1 claimed messages were looked at: none has a stalled run",
		"ok destinations sqs://orders is there",
		"ok publishers running processes publish to every scheme of pending messages: sqs",
		"ok deliveries no destination of pending messages fails",
		"ok callbacks no due callback has failed",
		"ok notify notifications arrive",
	}, lines)
	for _, f := range findings {
		assert.Empty(t, f.Remedy, f.Check)
	}
}

// A part that can't be asked is reported once, and the rest is looked at all the same.
func TestExamineGoesOn(t *testing.T) {
	_, lines := examined(t, func(h *healthy, _ *Subject) { h.silent, h.standby = errAway, errAway })
	assert.Equal(t, []string{
		"fail database connection refused",
		"ok temporal localhost:7233, namespace shop answers",
		"ok attributes OutflowDestination, OutflowType, OutflowState are there",
		"ok workers task queue outflow-outbox has 1 pollers of workflow tasks, 2 of activities",
		"skip schedule outbox/maintain is there; whether it maintains this database is unknown, because the database's ID is",
		"skip destinations the table could not be read",
		"warn notify connection refused",
	}, lines)
	_, lines = examined(t, func(h *healthy, p *Subject) { h.healthErr, p.NamespaceErr = errAway, errAway })
	assert.Equal(t, []string{
		"ok database answers",
		"ok schema 1 migrations are applied",
		"fail rights connection refused",
		"fail temporal localhost:7233, namespace shop: connection refused",
		"ok destinations sqs://orders is there",
		"ok publishers running processes publish to every scheme of pending messages: sqs",
		"ok deliveries no destination of pending messages fails",
		"ok callbacks no due callback has failed",
		"ok notify notifications arrive",
	}, lines)
}

func TestExamine(t *testing.T) {
	eight := time.Date(2026, 1, 31, 8, 0, 0, 0, time.UTC)
	const (
		ask       = "outflow grants -operator ROLE prints the rights that it needs"
		reach     = "check TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE and its credentials"
		listenOn  = "have programs that wait (package outboxdb/wait) listen on a connection past the transaction pooler: wait.ListenOn"
		identity  = "check the identity's rights in the namespace, and try again"
		settle    = "give the daemons what the text names, and this command the same settings"
		seeStatus = "fix what the text names; outflow status shows each destination"
		noStandby = "check DATABASE_URL, and that the server is no standby"

		takesStreams = "start outflow-worker with OUTFLOW_STREAMS above 0 (the default is 4), " +
			"with this OUTFLOW_TASK_QUEUE and namespace"
	)
	number := func(n int) *int { return &n }
	for name, c := range map[string]struct {
		spoil  func(h *healthy, p *Subject)
		want   string // level, check and part of the text of one finding; nothing else fails or warns
		remedy string // the whole of it
	}{
		"the role may not read the database's ID": {func(h *healthy, _ *Subject) { h.id, h.idErr = uuid.Nil, errAway },
			"warn identity connection refused", ask},
		"nobody has written the database's ID": {func(h *healthy, _ *Subject) { h.id = uuid.Nil },
			"skip runs whether runs belong to this database is unknown, because the database's ID is", ""},
		"no database setting": {func(_ *healthy, p *Subject) { p.DatabaseErr = errors.New("DATABASE_URL: wants") },
			"fail database DATABASE_URL: wants", "set DATABASE_URL to the application's database"},
		"the database does not answer": {func(h *healthy, _ *Subject) { h.silent = errAway },
			"fail database connection refused", "check DATABASE_URL and the server"},
		"a migration is missing": {func(h *healthy, _ *Subject) { h.applied[0].AppliedAt = time.Time{} },
			"fail schema not applied by outflow: 0001_destinations", "outflow migrate up (or run the missing files with the tool that runs yours)"},
		"the role sees nothing": {func(h *healthy, _ *Subject) { h.healthErr = errAway },
			"fail rights connection refused", ask},
		"the role may little": {func(h *healthy, _ *Subject) { h.server.Operates = false },
			"warn rights may not operate", "outflow grants -operator ops prints what it needs to operate"},
		"the clock is off": {func(h *healthy, _ *Subject) { h.server.Clock = time.Now().Add(time.Minute) },
			"warn clock this host and the database are 1m0s apart", "synchronise both clocks; deliveries use the database's only, but logs will not match"},
		"the clock is off a little": {func(h *healthy,
			_ *Subject) {
			h.server.Clock = time.Now().Add(-5 * time.Second)
		},
			"ok clock this host and the database agree within 5s", ""},
		"a server that a failover made read-only": {func(h *healthy, _ *Subject) { h.server.ReadOnly = true },
			"fail database the server is read-only: it is a standby",
			"name all hosts in DATABASE_URL, which finds the one that takes writes, or turn default_transaction_read_only off"},
		"another encoding": {func(h *healthy, _ *Subject) { h.server.Encoding = "LATIN1" },
			"warn encoding the database's encoding is LATIN1", "keep headers to the characters that it has, or move to a database in UTF8"},
		"an old snapshot": {func(h *healthy, _ *Subject) {
			h.server.Snapshots = []outbox.HeldSnapshot{{Holder: "session", Name: "psql", Seconds: 299},
				{Holder: "session", Name: "a report", PID: 7, Seconds: 3600}}
		}, `warn snapshots session 7 of application "a report", user "" has held a snapshot for 1h0m0s`, "end its transaction, or SELECT pg_terminate_backend(7)"},
		"a prepared transaction": {func(h *healthy, _ *Subject) {
			h.server.Snapshots = []outbox.HeldSnapshot{{Holder: "prepared transaction", Name: "tx-1", Seconds: 300}}
		}, `warn snapshots prepared transaction "tx-1" has held a snapshot for 5m0s`, "COMMIT PREPARED or ROLLBACK PREPARED it"},
		"a slot of unknown age": {func(h *healthy, _ *Subject) {
			h.server.Snapshots = []outbox.HeldSnapshot{{Holder: "replication slot", Name: "standby", Seconds: -1,
				Transactions: 2_000_000}}
		}, `warn snapshots replication slot "standby" has held a snapshot for an unknown time`, "let its consumer catch up, or drop it with pg_drop_replication_slot"},
		"only one's own sessions": {func(h *healthy, _ *Subject) { h.server.SeesAll = false },
			"ok snapshots pg_read_all_stats", ""},
		"no Temporal": {func(_ *healthy, p *Subject) { p.NamespaceErr = errAway },
			"fail temporal localhost:7233, namespace shop: connection refused", reach},
		"no Temporal setting": {func(_ *healthy, p *Subject) {
			p.Target, p.NamespaceErr = namespace.Target{}, errors.New("TEMPORAL_ADDRESS: wants host:port")
		}, "fail temporal TEMPORAL_ADDRESS: wants host:port", "set what the text names"},
		"no namespace": {func(h *healthy, _ *Subject) { h.refusal = serviceerror.NewNamespaceNotFound("shop") },
			"fail temporal shop", "check TEMPORAL_NAMESPACE, or create it: temporal operator namespace create --namespace shop"},
		"Temporal goes away": {func(h *healthy, _ *Subject) { h.refusal = errAway },
			"fail temporal localhost:7233, namespace shop: connection refused", reach},
		"pollers can't be seen": {func(h *healthy, _ *Subject) { h.pollers = errAway },
			"warn workers could not be looked at: connection refused", "check the identity's rights in the namespace, and try again"},
		"no list of destinations": {func(h *healthy, _ *Subject) { h.listing = errAway },
			"warn destinations connection refused", ask},
		"a queue that does not answer": {func(_ *healthy, p *Subject) {
			p.Lookups["sqs"] = answers(context.DeadlineExceeded)
		}, "warn destinations sqs://orders: no answer in time", "what to do about sqs://orders"},
		"may not list attributes": {func(h *healthy, _ *Subject) { h.refusal = denied }, "skip attributes may not list",
			""},
		"no attributes": {func(h *healthy, _ *Subject) { delete(h.types, "OutflowType") },
			"warn attributes OutflowType missing", "outflow setup"},
		"attributes of another type": {func(h *healthy,
			_ *Subject) {
			h.types["OutflowState"] = enums.INDEXED_VALUE_TYPE_TEXT
		},
			"warn attributes OutflowState missing", "outflow setup"},
		"no workers": {func(h *healthy, _ *Subject) { h.workflows = 0 },
			"fail workers no worker polls task queue outflow-outbox (workflow tasks: 0 pollers, activities: 2)", "start outflow-starter and outflow-worker, with this OUTFLOW_TASK_QUEUE and namespace"},
		"no workers of activities": {func(h *healthy, _ *Subject) { h.activities = 0 },
			"fail workers no worker polls task queue outflow-outbox (workflow tasks: 1 pollers, activities: 0)", "start outflow-starter and outflow-worker, with this OUTFLOW_TASK_QUEUE and namespace"},
		"no queue": {func(_ *healthy, p *Subject) {
			p.Lookups["sqs"] = answers(missingQueue)
		}, "fail destinations 3 pending: looking up sqs://orders: the destination does not exist",
			"what to do about sqs://orders"},
		"a queue that the table knows to be missing": {func(h *healthy, p *Subject) {
			p.Lookups = nil
			h.failing = []failingTarget{{Target: "sqs://orders", Messages: 6, Open: true, LastError: "no such queue",
				Missing: "sqs://orders", MissingSince: &eight, All: 1}}
		}, "fail deliveries 6 pending wait for sqs://orders, which is missing since 2026-01-31T08:00:00Z: no such queue",
			"what to do about sqs://orders"},
		"a queue that only messages miss": {func(h *healthy, p *Subject) {
			p.Lookups["sqs"] = answers(nil)
			h.failing = []failingTarget{{Target: "sqs://orders", Messages: 6, LastError: "no such binding (bind it)",
				Missing: "sqs://orders", MissingSince: &eight, All: 1}}
		}, "fail deliveries 6 pending wait for sqs://orders, which is missing since 2026-01-31T08:00:00Z: no such binding (bind it)",
			"do what the text says, or outflow redirect its messages"},
		"a missing queue, and no advice about queues": {func(h *healthy, p *Subject) {
			p.Lookups, p.Advice = nil, nil
			h.failing = []failingTarget{{Target: "sqs://orders", Messages: 6, LastError: "no such queue",
				Missing: "sqs://orders", MissingSince: &eight, All: 1}}
		}, "fail deliveries 6 pending wait for sqs://orders", "create it, or outflow redirect its messages"},
		"a missing queue is reported once": {func(h *healthy, p *Subject) {
			p.Lookups["sqs"] = answers(missingQueue)
			h.failing = []failingTarget{{Target: "sqs://orders", Messages: 6, LastError: "no such queue",
				Missing: "sqs://orders", MissingSince: &eight, All: 1}}
		}, "fail destinations 3 pending: looking up sqs://orders", "what to do about sqs://orders"},
		"a scheme that nobody publishes to": {func(h *healthy,
			_ *Subject) {
			h.targets = pending("sns://news", "sns://more")
		},
			"fail publishers messages to 2 destinations of sns:// wait: no running starter or worker publishes to it" +
				" (running: outflow-starter on web-1: https, sqs)",
			"start a starter and workers that publish to sns://, or outflow redirect the messages;" +
				" after OUTFLOW_MISSING_GRACE they end dead"},
		"a scheme that nobody publishes to, yet": {func(h *healthy, _ *Subject) {
			h.targets = pending("sns://news")
			h.targets[0].DueInScheme = false
		},
			"warn publishers messages to 1 destinations of sns:// will wait when they are due: no running starter or worker",
			"start a starter and workers that publish to sns://, or outflow redirect the messages;" +
				" after OUTFLOW_MISSING_GRACE from then on they end dead"},
		"a process that does not say what it publishes to": {func(h *healthy, _ *Subject) {
			h.targets, h.running = pending("sns://news"), append(h.running, RunningProcess{Name: "shop", Silent: true})
		}, "ok publishers running processes publish to every scheme of pending messages: sns", ""},
		"no process runs": {func(h *healthy, _ *Subject) { h.running = nil },
			"warn publishers no starter or worker has said within the last minute that it runs",
			"start outflow-starter and outflow-worker"},
		"processes can't be listed": {func(h *healthy, _ *Subject) { h.runningErr = errAway },
			"warn processes connection refused", ask},
		"a trigger does not work": {func(h *healthy, _ *Subject) {
			h.running[0].Trigger, h.running[0].TriggerProblem = "wal", "wal_level is replica"
		}, "warn trigger outflow-starter on web-1: trigger wal does not work: wal_level is replica",
			"do what the text says; until then that starter polls (OUTFLOW_TRIGGER, docs/triggers.md)"},
		"much of the log is kept": {func(h *healthy, _ *Subject) { h.running[0].Trigger, h.kept = "wal", 2<<30 },
			"warn log the server keeps 2048 MB of its log for the starter that reads it",
			"restart the starter that reads the log, or set OUTFLOW_TRIGGER to listen"},
		"the slots can't be read": {func(h *healthy, _ *Subject) { h.running[0].Trigger, h.keptErr = "wal", errAway },
			"warn log connection refused", "check the role's rights"},
		"no right": {func(_ *healthy, p *Subject) {
			p.Lookups["sqs"] = answers(outflow.Unavailable(errors.New("AccessDenied")))
		}, "warn destinations AccessDenied", "what to do about sqs://orders"},
		"no AWS": {func(_ *healthy, p *Subject) {
			p.Lookups, p.NoLookup = nil, map[string]string{"sqs": "AWS_REGION is not set"}
		},
			"skip destinations 1 of sqs:// are not looked up, such as sqs://orders: AWS_REGION is not set", ""},
		"others": {func(h *healthy, _ *Subject) {
			h.targets, h.running = pending("rabbitmq://shop/a"), []RunningProcess{{Silent: true}}
		},
			"skip destinations 1 of rabbitmq:// are not looked up: this command has no publisher for them", ""},
		"a host that is not allowed": {func(h *healthy, p *Subject) {
			h.targets, p.Lookups["https"] = pending("https://shop.example/in"), answers(errors.New("the host is not allowed"))
		}, "fail destinations 3 pending: the host is not allowed", settle},
		"hosts that are allowed": {func(h *healthy,
			_ *Subject) {
			h.targets = pending("https://shop.example/in", "https://b.example/")
		},
			"ok destinations 2 hosts of https:// are allowed, and have a secret", ""},
		"more hosts than are looked up": {func(h *healthy, _ *Subject) {
			h.targets = pending("https://shop.example/in")
			h.targets[0].OfScheme = 700
		}, "skip destinations 1 of https:// have more than the others, and were looked up; 699 were not", ""},
		"broken settings": {func(_ *healthy,
			p *Subject) {
			p.SettingsErr = errors.New("OUTFLOW_WEBHOOK_HOSTS: wants host names")
		},
			"fail settings OUTFLOW_WEBHOOK_HOSTS: wants host names", "correct what the text names: a daemon with these settings does not start"},
		"no schedule": {func(h *healthy, _ *Subject) { h.scheduleErr = namespace.ErrNoSchedule },
			"warn schedule there is no schedule outbox/maintain: nothing is purged", "start outflow-starter or outflow-worker, which write it within minutes"},
		"the schedule can't be seen": {func(h *healthy, _ *Subject) { h.scheduleErr = errAway },
			"warn schedule connection refused", identity},
		"may not see schedules": {func(h *healthy, _ *Subject) { h.scheduleErr = denied },
			"skip schedule may not look at schedules", ""},
		"a paused schedule": {func(h *healthy, _ *Subject) {
			h.schedule.Paused, h.schedule.Note = true,
				"the disk is being moved"
		},
			"warn schedule outbox/maintain is paused (the disk is being moved): nothing is purged", "temporal schedule toggle --unpause --schedule-id outbox/maintain"},
		"a schedule on another task queue": {func(h *healthy, _ *Subject) { h.schedule.TaskQueue = "old" },
			"warn schedule outbox/maintain runs on task queue old, not outflow-outbox", "restart a daemon with the right OUTFLOW_TASK_QUEUE"},
		"another database's schedule": {func(h *healthy, _ *Subject) { h.schedule.Database = uuid.Max },
			"fail schedule outbox/maintain maintains database " + uuid.Max.String() + ", and this is database " +
				theID.String(),
			"give each database an OUTFLOW_OUTBOX of its own; after a database was created again, restart the daemons"},
		"a database without an ID yet": {func(h *healthy, _ *Subject) { h.id = uuid.Nil },
			"skip schedule outbox/maintain is there; whether it maintains this database is unknown, because the database's ID is", ""},
		"a stalled run": {func(h *healthy, _ *Subject) { h.stalled = "it waits on task queue old" },
			"fail runs 1 of 1 messages looked at, such as " + theID.String() +
				", wait for their run: it waits on task queue old", "fix it"},
		"runs can't be seen": {func(h *healthy, _ *Subject) { h.stalledErr = errAway },
			"warn runs could not be looked at: connection refused", identity},
		"no list of runs": {func(h *healthy, _ *Subject) { h.elsewhereErr = errAway },
			"warn runs could not be listed: connection refused", identity},
		"may not list runs": {func(h *healthy, _ *Subject) { h.elsewhereErr = denied },
			"skip runs could not be listed", ""},
		"no list of messages": {func(h *healthy, _ *Subject) { h.refsErr = errAway }, "warn runs connection refused",
			ask},
		"runs on another queue": {func(h *healthy, _ *Subject) { h.elsewhere = map[string]int{"old": 4} },
			"ok runs 4 runs of outbox outbox are on task queue old, which workers poll", ""},
		"dead messages": {func(h *healthy, _ *Subject) {
			h.deadCounts = []PhaseCount{{Destination: "https://shop.example/in;a&b", Messages: 3,
				LastError: "no such queue"}}
		}, "warn dead https://shop.example/in;a&b: 3 dead, such as: no such queue", "fix the cause, then outflow retry -state dead -destination 'https://shop.example/in;a&b'; or outflow dismiss with the same filter, and -why"},
		"dead messages whose destination has a query": {func(h *healthy, _ *Subject) {
			h.deadCounts = []PhaseCount{{Destination: "https://shop.example/in?token=hunter2", Messages: 3,
				LastError: "gone"}}
		}, "warn dead https://shop.example/in: 3 dead, such as: gone", "fix the cause, then outflow retry ID: outflow list -state dead shows which; or outflow dismiss -why REASON ID"},
		"the dead can't be counted": {func(h *healthy, _ *Subject) { h.deadErr = errAway },
			"warn dead connection refused", ask},
		"blocked ordering keys": {func(h *healthy, _ *Subject) {
			h.blocked = []BlockedKeys{{Destination: "https://shop.example/in?token=hunter2", Keys: 3,
				OldestSeconds: 90.2}}
		}, "warn order https://shop.example/in: dead messages block 3 ordering keys; " +
			"the oldest message behind them has been due for 1m30s",
			"outflow list -state dead shows which; then outflow retry, redirect or skip them"},
		"the order can't be read": {func(h *healthy, _ *Subject) { h.blockedErr = errAway },
			"warn order connection refused", ask},
		"stranded ordering keys": {func(h *healthy, _ *Subject) { h.stranded = 2 },
			"fail order 2 ordering keys have messages that nothing releases", deferAll},
		"a pooler drops notifications": {func(h *healthy, _ *Subject) { h.deaf = true }, "warn notify do not arrive",
			listenOn},
		"nobody may listen": {func(h *healthy, _ *Subject) { h.standby = errAway },
			"warn notify connection refused", noStandby},
		"a host that accepts nothing": {func(h *healthy, _ *Subject) {
			since := time.Date(2026, 1, 31, 8, 0, 0, 0, time.UTC)
			h.failing = []failingTarget{{Target: "https://shop.example", Messages: 6, FailingSince: &since, Open: true,
				LastError: "HTTP status 503", All: 1}}
		}, "warn deliveries https://shop.example: 6 pending do not go out, it fails since 2026-01-31T08:00:00Z, its breaker is open: HTTP status 503", seeStatus},
		"single messages that fail": {func(h *healthy, _ *Subject) {
			h.failing = []failingTarget{{Target: "sqs://orders", Messages: 6, LastError: "too large today", All: 1}}
		}, "warn deliveries sqs://orders: 6 pending do not go out: too large today", seeStatus},
		"what fails can't be listed": {func(h *healthy, _ *Subject) { h.failingErr = errAway },
			"warn deliveries connection refused", ask},
		"callbacks that fail": {func(h *healthy, _ *Subject) { h.callbacks = 3 },
			"warn callbacks 3 callbacks are due and their attempts failed, such as: no answer",
			"fix what the text names; outflow list -callback due shows them"},
		"no worker takes streams of a destination with a bound": {func(h *healthy, _ *Subject) {
			h.noStreamers, h.streams = true, []Stream{{State: StreamNone, Above: number(5)}}
		}, "warn streams no worker polls task queue outflow-outbox-streams (workflow tasks: 0 pollers, activities: 0): " +
			"streams do not go on", takesStreams},
		"no worker takes the streams of the setting": {func(h *healthy, p *Subject) { h.noStreamers, p.StreamAbove = true, 1000 },
			"warn streams no worker polls task queue outflow-outbox-streams", takesStreams},
		"no worker goes on with a stream": {func(h *healthy, _ *Subject) {
			h.noStreamers, h.streams = true, []Stream{{State: StreamSilent, StartedAt: new(time.Time)}}
		}, "warn streams no worker polls", takesStreams},
		"workers take streams": {func(_ *healthy, p *Subject) { p.StreamAbove = 1000 },
			"ok streams task queue outflow-outbox-streams has 1 pollers of workflow tasks, 2 of activities", ""},
		"the streams can't be read": {func(h *healthy, _ *Subject) { h.streamsErr = errAway },
			"warn streams connection refused", ask},
		"the run of a stream without a worker": {func(h *healthy, _ *Subject) {
			h.noStreamers, h.elsewhere = true, map[string]int{"outflow-outbox-streams": 1}
		}, "fail runs 1 runs of outbox outbox are on task queue outflow-outbox-streams, which no worker polls",
			"start outflow-worker with OUTFLOW_STREAMS above 0 (the default is 4)"},
		"the run of a stream on another task queue": {func(h *healthy, _ *Subject) {
			h.noStreamers, h.elsewhere = true, map[string]int{"old-streams": 1}
		}, "fail runs 1 runs of outbox outbox are on task queue old-streams, which no worker polls",
			"start outflow-worker with OUTFLOW_TASK_QUEUE=old until these have ended (\"Another task queue\" in docs/running.md)"},
		"old pages": {func(h *healthy, _ *Subject) {
			h.pages = oldPages{Pages: 2, Messages: 4000, Destination: "sqs://orders"}
		}, "warn pages 2 pages of streams with up to 4000 messages, such as of sqs://orders, were claimed more than 15 minutes ago",
			"start outflow-starter, which frees them where their stream is lost; else the stream's worker can't write their ends: its log says why"},
		"the pages can't be read": {func(h *healthy, _ *Subject) { h.pagesErr = errAway }, "warn pages connection refused", ask},
		"callbacks can't be counted": {func(h *healthy, _ *Subject) { h.callbacksErr = errAway },
			"warn callbacks connection refused", ask},
		"nothing pending": {func(h *healthy, _ *Subject) { h.targets = nil },
			"ok destinations no message is pending", ""},
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

// A bound of "off", and a stream that has ended, want no worker.
func TestExamineWithoutStreams(t *testing.T) {
	_, lines := examined(t, func(h *healthy, _ *Subject) {
		never := 0
		h.noStreamers, h.streams = true, []Stream{{State: StreamNone, Above: &never}, {State: "drained"}}
	})
	assert.False(t, slices.ContainsFunc(lines, func(line string) bool { return strings.Contains(line, "streams") }), "%v", lines)
}

// Thousands of destinations with dead messages are no thousands of findings.
func TestExamineOfManyDead(t *testing.T) {
	_, lines := examined(t, func(h *healthy, _ *Subject) {
		for n := range 100 {
			h.deadCounts = append(h.deadCounts,
				PhaseCount{Destination: fmt.Sprintf("sqs://q%d", n), Messages: n + 1, LastError: "gone"})
		}
	})
	lines = slices.DeleteFunc(lines, func(line string) bool { return !strings.HasPrefix(line, "warn dead ") })
	assert.Len(t, lines, 11)
	assert.Equal(t, "warn dead sqs://q99: 100 dead, such as: gone", lines[0])
	assert.Equal(t, "warn dead 4095 more dead for 90 destinations", lines[10])
}

// Nor are hundreds that fail.
func TestExamineOfManyThatFail(t *testing.T) {
	_, lines := examined(t, func(h *healthy, _ *Subject) {
		h.failing = []failingTarget{{Target: "sqs://a", Messages: 2, LastError: "gone", All: 700}}
	})
	lines = slices.DeleteFunc(lines, func(line string) bool { return !strings.HasPrefix(line, "warn deliveries ") })
	assert.Equal(t, []string{"warn deliveries sqs://a: 2 pending do not go out: gone",
		"warn deliveries 699 more queues, topics or hosts whose messages do not go out"}, lines)
}

// refusedRight is what a driver's error says of itself.
type refusedRight struct{ error }

func (refusedRight) SQLState() string { return "42501" }

// Where the role lacks a right, the remedy is the grants, as with any other command.
func TestExamineWithoutRights(t *testing.T) {
	for remedy, err := range map[string]error{
		seeGrants: fmt.Errorf("reading: %w",
			refusedRight{errors.New("permission denied")}), "check DATABASE_URL and the server": errAway,
	} {
		findings, _ := examined(t, func(h *healthy, _ *Subject) { h.silent = err })
		assert.Equal(t, Finding{Check: "database", Level: Fail, Text: err.Error(), Remedy: remedy}, findings[0])
	}
}

// cutTwice cuts level, check and text.
func cutTwice(line string) (level, check, text string) {
	level, rest, _ := strings.Cut(line, " ")
	check, text, _ = strings.Cut(rest, " ")
	return level, check, text
}
