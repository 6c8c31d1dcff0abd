package control

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outboxdb"
)

// Finding is one check of a doctor.
type Finding struct {
	Check  string `json:"check"`
	Level  Level  `json:"level"`
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"`
}

// Level says how bad a finding is.
type Level string

// The levels. Skipped says that it could not be checked from here.
const (
	OK      Level = "ok"
	Warn    Level = "warn"
	Fail    Level = "fail"
	Skipped Level = "skip"
)

const (
	// examineTimeout bounds each check.
	examineTimeout = 10 * time.Second
	// clockSkew is what a host's clock may differ before people are misled by
	// times that they compare by eye. Nothing else depends on it.
	clockSkew = 5 * time.Second
	// oldSnapshot is when the rows that vacuum can't remove begin to slow claims.
	oldSnapshot = 5 * time.Minute
	// examinedDestinations bounds the look-ups.
	examinedDestinations = 50
)

// DatabaseHealth is the table as Examine looks at it; outboxdb.Operator is one.
type DatabaseHealth interface {
	Migrations(ctx context.Context) ([]outboxdb.MigrationStatus, error)
	Health(ctx context.Context) (outboxdb.Health, error)
	PendingDestinations(ctx context.Context, limit int) ([]string, error)
	// Hears reports whether a notification arrives on a connection that listens.
	Hears(ctx context.Context) (bool, error)
	// Dead counts the dead messages that nobody dismissed, of each destination that
	// has any.
	Dead(ctx context.Context) ([]outboxdb.PhaseCount, error)
}

var _ DatabaseHealth = (*outboxdb.Operator)(nil)

// NamespaceHealth is Temporal as Examine looks at it; NewNamespaceHealth makes one.
type NamespaceHealth interface {
	// SearchAttributes is Namespace's.
	SearchAttributes(ctx context.Context) (map[string]enums.IndexedValueType, error)
	// Pollers counts the workers of a task queue that take workflow tasks, and
	// those that take activities.
	Pollers(ctx context.Context, taskQueue string) (workflows, activities int, err error)
}

// NewNamespaceHealth returns a namespace as the client, connected for it, sees it.
func NewNamespaceHealth(c client.Client, name string) NamespaceHealth {
	return namespaceHealth{Namespace: NewNamespace(c, name), client: c}
}

type namespaceHealth struct {
	Namespace
	client client.Client
}

func (n namespaceHealth) Pollers(ctx context.Context, taskQueue string) (workflows, activities int, err error) {
	for _, each := range []struct {
		kind  enums.TaskQueueType
		count *int
	}{{enums.TASK_QUEUE_TYPE_WORKFLOW, &workflows}, {enums.TASK_QUEUE_TYPE_ACTIVITY, &activities}} {
		described, err := n.client.DescribeTaskQueue(ctx, taskQueue, each.kind)
		if err != nil {
			return 0, 0, err
		}
		*each.count = len(described.GetPollers())
	}
	return workflows, activities, nil
}

// Lookup finds out whether a destination is there, without sending anything.
type Lookup func(ctx context.Context, destination string) error

// Patient is what Examine looks at. A part that could not be opened is an error
// in its place; a nil Lookup says why in NoLookup.
type Patient struct {
	Database     DatabaseHealth
	DatabaseErr  error
	Namespace    NamespaceHealth
	NamespaceErr error
	Target       Target
	TaskQueue    string
	Lookup       Lookup
	NoLookup     string
}

// Examine looks at everything that a delivery needs, and says what to do about
// what is wrong. It changes nothing.
func Examine(ctx context.Context, p Patient, tell func(Finding)) {
	e := examination{Patient: p, tell: tell}
	e.database(ctx)
	e.temporal(ctx)
	e.queues(ctx)
	e.notifications(ctx)
}

type examination struct {
	Patient
	tell  func(Finding)
	ready bool // the schema is there
}

func (e *examination) say(check string, level Level, remedy, format string, args ...any) {
	e.tell(Finding{Check: check, Level: level, Remedy: remedy, Text: fmt.Sprintf(format, args...)})
}

func (e *examination) database(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, examineTimeout)
	defer cancel()
	if e.DatabaseErr != nil {
		e.say("database", Fail, "set DATABASE_URL to the application's database", "%v", e.DatabaseErr)
		return
	}
	migrations, err := e.Database.Migrations(ctx)
	if err != nil {
		e.say("database", Fail, "check DATABASE_URL, the server, and its rights", "%v", err)
		return
	}
	e.say("database", OK, "", "answers")
	var missing []string
	for _, m := range migrations {
		if m.AppliedAt.IsZero() {
			missing = append(missing, m.Name)
		}
	}
	if len(missing) > 0 {
		e.say("schema", Fail, "outflow migrate up (or run the missing files with the tool that runs yours)", "not applied by outflow: %s", strings.Join(missing, ", "))
		return
	}
	e.ready = true
	e.say("schema", OK, "", "%d migrations are applied", len(migrations))

	began := time.Now()
	health, err := e.Database.Health(ctx)
	if err != nil {
		e.say("rights", Fail, "outflow grants -operator ROLE prints the rights that it needs", "%v", err)
		return
	}
	e.rights(health)
	e.clock(health, began, time.Now())
	e.snapshots(health)
	e.dead(ctx)
}

// notifications wake those who wait for the end of a message; starters poll.
func (e *examination) notifications(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, examineTimeout)
	defer cancel()
	if e.DatabaseErr != nil {
		e.say("notify", Skipped, "", "the database could not be asked")
		return
	}
	heard, err := e.Database.Hears(ctx)
	switch {
	case err != nil:
		e.say("notify", Warn, "check DATABASE_URL, and that the server is no standby", "%v", err)
	case !heard:
		e.say("notify", Warn, "have programs that wait (outboxdb.NewWaiter) listen on a connection past the transaction pooler: outboxdb.ListenOn", "notifications do not arrive: those who wait for a message's end see it by polling, up to a second late")
	default:
		e.say("notify", OK, "", "notifications arrive")
	}
}

// dead messages wait for an operator: nothing else brings them back.
func (e *examination) dead(ctx context.Context) {
	counts, err := e.Database.Dead(ctx)
	if err != nil {
		e.say("dead", Warn, "outflow grants -operator ROLE prints the rights that it needs", "%v", err)
		return
	}
	if len(counts) == 0 {
		e.say("dead", OK, "", "no dead message waits for somebody")
		return
	}
	for _, c := range counts {
		e.say("dead", Warn, "mend the cause, then outflow retry -state dead -destination "+quote(c.Destination)+"; or let them go: outflow dismiss, with the same filter", "%s: %d dead, such as: %s", c.Destination, c.Messages, c.LastError)
	}
}

func (e *examination) rights(h outboxdb.Health) {
	may := func(yes bool) string {
		if yes {
			return "may"
		}
		return "may not"
	}
	text := fmt.Sprintf("role %s %s enqueue, %s run the daemons, %s operate", h.Role, may(h.Produces), may(h.Dispatches), may(h.Operates))
	if h.Operates {
		e.say("rights", OK, "", "%s", text)
		return
	}
	e.say("rights", Warn, "outflow grants -operator "+h.Role+" prints what it needs to operate", "%s", text)
}

// clock compares with the middle of the round trip.
func (e *examination) clock(h outboxdb.Health, began, ended time.Time) {
	trip := ended.Sub(began)
	skew := h.Clock.Sub(began.Add(trip / 2))
	if skew.Abs() > clockSkew+trip/2 {
		e.say("clock", Warn, "synchronise both clocks; deliveries use the database's alone, but logs will not match", "this host and the database are %s apart", skew.Abs().Round(time.Millisecond))
		return
	}
	e.say("clock", OK, "", "this host and the database agree within %s", max(skew.Abs(), trip/2).Round(time.Millisecond))
}

func (e *examination) snapshots(h outboxdb.Health) {
	unseen := ""
	if !h.SeesAll {
		unseen = " (as far as this role sees: pg_read_all_stats shows all)"
	}
	held := false
	for _, s := range h.Snapshots {
		if s.HeldFor(oldSnapshot) {
			held = true
			e.say("snapshots", Warn, s.Remedy(), "%s%s", s, unseen)
		}
	}
	if !held {
		e.say("snapshots", OK, "", "none is older than %s%s", oldSnapshot, unseen)
	}
}

func (e *examination) temporal(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, examineTimeout)
	defer cancel()
	where := fmt.Sprintf("%s, namespace %s", e.Target.Address, e.Target.Namespace)
	if e.NamespaceErr != nil && e.Target.Address == "" {
		e.say("temporal", Fail, "set what the text names", "%v", e.NamespaceErr)
		return
	}
	if e.NamespaceErr != nil {
		e.say("temporal", Fail, "check TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE and its credentials", "%s: %v", where, e.NamespaceErr)
		return
	}
	types, err := e.Namespace.SearchAttributes(ctx)
	switch {
	case refused(err):
		e.say("temporal", OK, "", "%s answers", where)
		e.say("attributes", Skipped, "", "this identity may not list search attributes: %v", err)
	case unknownNamespace(err):
		e.say("temporal", Fail, "check TEMPORAL_NAMESPACE, or create it: temporal operator namespace create --namespace "+quote(e.Target.Namespace), "%s: %v", where, err)
		return
	case err != nil:
		e.say("temporal", Fail, "check TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE and its credentials", "%s: %v", where, err)
		return
	default:
		e.say("temporal", OK, "", "%s answers", where)
		e.attributes(types)
	}
	e.pollers(ctx)
}

// unknownNamespace reports whether Temporal answers, and has no such namespace.
func unknownNamespace(err error) bool {
	var unknown *serviceerror.NamespaceNotFound
	return errors.As(err, &unknown)
}

func (e *examination) attributes(types map[string]enums.IndexedValueType) {
	var missing []string
	for _, name := range attributeNames() {
		if types[name] != enums.INDEXED_VALUE_TYPE_KEYWORD {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		e.say("attributes", Warn, "outflow setup", "%s missing: the Web UI can't filter by them; deliveries go on without", strings.Join(missing, ", "))
		return
	}
	e.say("attributes", OK, "", "%s are there", strings.Join(attributeNames(), ", "))
}

func (e *examination) pollers(ctx context.Context) {
	workflows, activities, err := e.Namespace.Pollers(ctx, e.TaskQueue)
	switch {
	case err != nil:
		e.say("workers", Warn, "check the identity's rights in the namespace, and ask again", "task queue %s could not be looked at: %v", e.TaskQueue, err)
	case workflows == 0 || activities == 0:
		e.say("workers", Fail, "start outflow-starter and outflow-worker, with this OUTFLOW_TASK_QUEUE and namespace",
			"nobody polls task queue %s (workflow tasks: %d pollers, activities: %d)", e.TaskQueue, workflows, activities)
	default:
		e.say("workers", OK, "", "task queue %s has %d pollers of workflow tasks, %d of activities", e.TaskQueue, workflows, activities)
	}
}

// queues looks up where pending messages are to go.
func (e *examination) queues(ctx context.Context) {
	if !e.ready {
		e.say("destinations", Skipped, "", "the table could not be read")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 3*examineTimeout)
	defer cancel()
	destinations, err := e.Database.PendingDestinations(ctx, examinedDestinations)
	if err != nil {
		e.say("destinations", Warn, "outflow grants -operator ROLE prints the rights that it needs", "%v", err)
		return
	}
	if len(destinations) == 0 {
		e.say("destinations", OK, "", "no message is pending")
		return
	}
	other := 0
	for _, text := range destinations {
		d, err := outflow.ParseDestination(text)
		switch {
		case err != nil || d.Scheme != outflow.SchemeSQS:
			other++
		case e.Lookup == nil:
			e.say("destinations", Skipped, "", "%s: %s", text, e.NoLookup)
		default:
			e.queue(ctx, text)
		}
	}
	if other > 0 {
		e.say("destinations", Skipped, "", "%d that are no SQS queues are not looked up", other)
	}
	if len(destinations) == examinedDestinations {
		e.say("destinations", Skipped, "", "there may be more than these %d", examinedDestinations)
	}
}

func (e *examination) queue(ctx context.Context, destination string) {
	err := e.Lookup(ctx, destination)
	switch {
	case err == nil:
		e.say("destinations", OK, "", "%s is there", destination)
	case outflow.IsPermanent(err):
		e.say("destinations", Fail, "create the queue, or outflow redirect its messages", "%v", err)
	case errors.Is(err, context.DeadlineExceeded):
		e.say("destinations", Warn, "check the endpoint, AWS_REGION and the network", "%s: no answer in time", destination)
	default:
		e.say("destinations", Warn, "check AWS_REGION, the credentials and their policy", "%v", err)
	}
}
