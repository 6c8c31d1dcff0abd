package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/outboxdb/migrate"
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
	// examinedDestinations bounds the look-ups of each scheme, examinedRuns the
	// messages whose runs are looked at.
	examinedDestinations = 50
	examinedRuns         = 25
)

// DatabaseHealth is the table as Examine looks at it.
type DatabaseHealth interface {
	Migrations(ctx context.Context) ([]migrate.Migration, error)
	Health(ctx context.Context) (outboxdb.Health, error)
	PendingTargets(ctx context.Context, limit int) ([]outboxdb.PendingTarget, error)
	// InHand are pending messages of which a run should be open.
	InHand(ctx context.Context, limit int) ([]outbox.Ref, error)
	DatabaseID(ctx context.Context) (uuid.UUID, error)
	// Hears reports whether a notification arrives on a connection that listens.
	Hears(ctx context.Context) (bool, error)
	// Dead counts the dead messages that nobody dismissed, of each destination that
	// has any.
	Dead(ctx context.Context) ([]outboxdb.PhaseCount, error)
	// Failing are the targets whose messages do not go out, those with the most first.
	Failing(ctx context.Context, limit int) ([]outboxdb.FailingTarget, error)
	// FailingCallbacks counts the due callbacks whose attempts have failed so far.
	FailingCallbacks(ctx context.Context) (callbacks int, lastError string, err error)
}

// NewDatabaseHealth returns the DatabaseHealth of the outbox in pool's database.
func NewDatabaseHealth(pool *pgxpool.Pool) DatabaseHealth {
	return databaseHealth{outboxdb.NewOperator(pool), pool}
}

type databaseHealth struct {
	*outboxdb.Operator
	pool *pgxpool.Pool
}

func (h databaseHealth) Migrations(ctx context.Context) ([]migrate.Migration, error) {
	return migrate.Status(ctx, h.pool)
}

// Lookup finds out whether messages can be sent to a destination, and sends none.
type Lookup func(ctx context.Context, destination string) error

// Patient is what Examine looks at. A part that could not be opened is an error
// in its place.
type Patient struct {
	Database     DatabaseHealth
	DatabaseErr  error
	Namespace    NamespaceHealth
	NamespaceErr error
	Target       Target
	Outbox       string
	TaskQueue    string
	// Lookups are by scheme. NoLookup says of a scheme why it has none.
	Lookups  map[string]Lookup
	NoLookup map[string]string
	// SettingsErr are settings of the daemons that are set here, and wrong.
	SettingsErr error
}

// Examine looks at everything that a delivery needs, and says what to do about
// what is wrong. It changes nothing.
func Examine(ctx context.Context, p Patient, tell func(Finding)) {
	e := examination{Patient: p, tell: tell}
	e.settings()
	e.database(ctx)
	if e.temporal(ctx) {
		for _, check := range []func(context.Context){e.pollers, e.schedule, e.runs} {
			inTime, cancel := context.WithTimeout(ctx, examineTimeout)
			check(inTime)
			cancel()
		}
	}
	e.destinations(ctx)
	if e.ready {
		e.failing(ctx)
		e.callbacks(ctx)
	}
	e.notifications(ctx)
}

type examination struct {
	Patient
	tell  func(Finding)
	ready bool // the schema is there
	id    uuid.UUID
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
		remedy := "check DATABASE_URL and the server"
		if lacksRight(err) {
			remedy = askRights
		}
		e.say("database", Fail, remedy, "%v", err)
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
	e.server(health)
	e.rights(health)
	e.identity(ctx)
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
		e.say("notify", Warn, "have programs that wait (package outboxdb/wait) listen on a connection past the transaction pooler: wait.ListenOn", "notifications do not arrive: those who wait for a message's end see it by polling, up to a second late")
	default:
		e.say("notify", OK, "", "notifications arrive")
	}
}

// dead messages wait for an operator: nothing else brings them back. The destinations
// with the most are named.
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
	slices.SortStableFunc(counts, func(a, b outboxdb.PhaseCount) int { return b.Messages - a.Messages })
	named := counts[:min(len(counts), mostNamed)]
	for _, c := range named {
		shown, fix := outflow.DisplayDestination(c.Destination), "mend the cause, then outflow retry -state dead -destination "+quote(c.Destination)+"; or let them go: outflow dismiss with the same filter, and -why"
		if shown != c.Destination {
			fix = "mend the cause, then outflow retry ID: outflow list -state dead shows which; or let them go: outflow dismiss -why REASON ID"
		}
		e.say("dead", Warn, fix, "%s: %d dead, such as: %s", shown, c.Messages, c.LastError)
	}
	if others := counts[len(named):]; len(others) > 0 {
		more := 0
		for _, c := range others {
			more += c.Messages
		}
		e.say("dead", Warn, "outflow status shows them all", "%d more dead for %d destinations", more, len(others))
	}
}

// server says what of the server itself keeps messages from their ends.
func (e *examination) server(h outboxdb.Health) {
	if h.ReadOnly {
		e.say("database", Fail, "name all hosts in DATABASE_URL, which finds the one that takes writes, or turn default_transaction_read_only off",
			"the server is read-only: it is a standby, as an old primary is after a failover, or default_transaction_read_only is on")
	}
	if h.Encoding != "UTF8" {
		e.say("encoding", Warn, "keep headers to the characters that it has, or move to a database in UTF8",
			"the database's encoding is %s: a header with a character that it lacks is refused, and errors are noted in ASCII", h.Encoding)
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

// temporal reports whether the namespace answers.
func (e *examination) temporal(ctx context.Context) (answers bool) {
	ctx, cancel := context.WithTimeout(ctx, examineTimeout)
	defer cancel()
	where := fmt.Sprintf("%s, namespace %s", e.Target.Address, e.Target.Namespace)
	if e.NamespaceErr != nil && e.Target.Address == "" {
		e.say("temporal", Fail, "set what the text names", "%v", e.NamespaceErr)
		return false
	}
	if e.NamespaceErr != nil {
		e.say("temporal", Fail, "check TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE and its credentials", "%s: %v", where, e.NamespaceErr)
		return false
	}
	types, err := e.Namespace.SearchAttributes(ctx)
	switch {
	case refused(err):
		e.say("temporal", OK, "", "%s answers", where)
		e.say("attributes", Skipped, "", "this identity may not list search attributes: %v", err)
	case unknownNamespace(err):
		e.say("temporal", Fail, "check TEMPORAL_NAMESPACE, or create it: temporal operator namespace create --namespace "+quote(e.Target.Namespace), "%s: %v", where, err)
	case err != nil:
		e.say("temporal", Fail, "check TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE and its credentials", "%s: %v", where, err)
	default:
		e.say("temporal", OK, "", "%s answers", where)
		e.attributes(types)
	}
	return err == nil || refused(err)
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
