package operator

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"go.temporal.io/api/enums/v1"

	"github.com/outflowhq/outflow/namespace"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb/migrate"
)

// Finding is what one check of Examine found.
type Finding struct {
	Check  string `json:"check"`
	Level  Level  `json:"level"`
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"`
}

// Level says how bad a finding is.
type Level string

// The levels. Skipped says that the check can't be made from here.
const (
	OK      Level = "ok"
	Warn    Level = "warn"
	Fail    Level = "fail"
	Skipped Level = "skip"
)

const (
	// checkTimeout bounds each check.
	checkTimeout = 10 * time.Second
	// clockSkew is how much a host's clock may differ before it misleads people who compare times
	// by eye. Nothing else depends on it.
	clockSkew = 5 * time.Second
	// oldSnapshot is the age from which the rows that vacuum can't remove begin to slow claims.
	oldSnapshot = 5 * time.Minute
	// maxTargets bounds the look-ups of each scheme, maxRuns the messages whose runs are looked at.
	maxTargets = 50
	maxRuns    = 25
	// maxNamed bounds the hosts and destinations that are named one by one.
	maxNamed = 10
)

const (
	seeGrants   = "outflow grants -operator ROLE prints the rights that it needs"
	seeTemporal = "check TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE and its credentials"
	seeIdentity = "check the identity's rights in the namespace, and try again"
)

// Lookup finds out whether messages can be sent to a destination, and sends none.
type Lookup func(ctx context.Context, destination string) error

// Subject is what Examine looks at. A part that could not be opened is an error in its place.
type Subject struct {
	Operator     *Operator
	DatabaseErr  error
	Namespace    *namespace.Namespace
	NamespaceErr error
	Target       namespace.Target
	Outbox       string
	TaskQueue    string
	// StreamAbove is OUTFLOW_STREAM_ABOVE as it is set here; 0: starters begin streams only where a
	// destination has a bound of its own.
	StreamAbove int
	// Lookups are by scheme. NoLookup says of a scheme why it has none.
	Lookups  map[string]Lookup
	NoLookup map[string]string
	// Advice, by scheme, is what an operator can do about a look-up's error. Each destination
	// of its schemes has a finding of its own.
	Advice map[string]func(destination string, err error) string
	// SettingsErr are settings of the daemons that are set here, and wrong.
	SettingsErr error
}

// Examine looks at everything that a delivery needs, and reports what it finds and what to do about
// it. It changes nothing and sends no message.
func Examine(ctx context.Context, s Subject, report func(Finding)) {
	examine(ctx, s, s.Operator, s.Namespace, report)
}

func examine(
	ctx context.Context, s Subject, database databaseHealth, temporal namespaceHealth, report func(Finding),
) {
	e := examination{
		Subject: s, database: database, temporal: temporal, report: report, missing: map[string]bool{},
	}
	e.checkSettings()
	e.checkDatabase(ctx)
	if e.checkNamespace(ctx) {
		for _, check := range []func(context.Context){e.checkWorkers, e.checkStreams, e.checkSchedule, e.checkRuns} {
			inTime, cancel := context.WithTimeout(ctx, checkTimeout)
			check(inTime)
			cancel()
		}
	}
	e.checkDestinations(ctx)
	if e.hasSchema {
		e.checkDeliveries(ctx)
		e.checkCallbacks(ctx)
		e.checkPages(ctx)
		e.checkTriggers(ctx)
	}
	e.checkNotifications(ctx)
}

// databaseHealth is an Operator as examine asks it. The tests play one with every kind of trouble.
type databaseHealth interface {
	migrations(ctx context.Context) ([]migrate.Migration, error)
	health(ctx context.Context) (health, error)
	pendingTargets(ctx context.Context, limit int) ([]pendingTarget, error)
	claimed(ctx context.Context, limit int) ([]outbox.Ref, error)
	databaseID(ctx context.Context) (uuid.UUID, error)
	receivesNotifications(ctx context.Context) (bool, error)
	dead(ctx context.Context) ([]PhaseCount, error)
	failingTargets(ctx context.Context, limit int) ([]failingTarget, error)
	Blocked(ctx context.Context) ([]BlockedKeys, error)
	strandedKeys(ctx context.Context) (int, error)
	failingCallbacks(ctx context.Context) (callbacks int, lastError string, err error)
	Running(ctx context.Context) ([]RunningProcess, error)
	retained(ctx context.Context) (slots int, bytes int64, err error)
	Streams(ctx context.Context) ([]Stream, error)
	oldPages(ctx context.Context) (oldPages, error)
}

// namespaceHealth is a namespace.Namespace as examine asks it; the tests play one too.
type namespaceHealth interface {
	SearchAttributes(ctx context.Context) (map[string]enums.IndexedValueType, error)
	Pollers(ctx context.Context, taskQueue string) (workflows, activities int, err error)
	FindSchedule(ctx context.Context, outbox string) (namespace.FoundSchedule, error)
	OtherTaskQueues(ctx context.Context, outbox, taskQueue string) (runs map[string]int, more bool, err error)
	Stalled(ctx context.Context, outbox string, database uuid.UUID, m outbox.Ref) (problem, remedy string, err error)
}

var (
	_ databaseHealth  = (*Operator)(nil)
	_ namespaceHealth = (*namespace.Namespace)(nil)
)

type examination struct {
	Subject
	database  databaseHealth
	temporal  namespaceHealth
	report    func(Finding)
	hasSchema bool
	id        uuid.UUID       // the database's
	missing   map[string]bool // whether a look-up did not find the destination
	unlisted  bool            // the running processes could not be listed, which was said
}

func (e *examination) found(check string, level Level, remedy, format string, args ...any) {
	e.report(Finding{Check: check, Level: level, Remedy: remedy, Text: fmt.Sprintf(format, args...)})
}

// checkSettings reports settings that are wrong here: they are wrong for a daemon too.
func (e *examination) checkSettings() {
	if e.SettingsErr != nil {
		e.found("settings", Fail, "correct what the text names: a daemon with these settings does not start",
			"%v", e.SettingsErr)
	}
}
