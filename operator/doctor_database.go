package operator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/text"
)

func (e *examination) checkDatabase(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	if e.DatabaseErr != nil {
		e.found("database", Fail, "set DATABASE_URL to the application's database", "%v", e.DatabaseErr)
		return
	}
	if e.hasSchema = e.checkSchema(ctx); !e.hasSchema {
		return
	}
	began := time.Now()
	h, err := e.database.health(ctx)
	if err != nil {
		e.found("rights", Fail, seeGrants, "%v", err)
		return
	}
	e.checkServer(h)
	e.checkRole(h)
	if e.id, err = e.database.databaseID(ctx); err != nil {
		e.found("identity", Warn, seeGrants, "%v", err)
	}
	e.checkClock(h, began, time.Now())
	e.checkSnapshots(h)
	e.checkDead(ctx)
	e.checkOrder(ctx)
}

// checkSchema reports whether every migration is applied.
func (e *examination) checkSchema(ctx context.Context) (complete bool) {
	migrations, err := e.database.migrations(ctx)
	if err != nil {
		remedy := "check DATABASE_URL and the server"
		if lacksRight(err) {
			remedy = seeGrants
		}
		e.found("database", Fail, remedy, "%v", err)
		return false
	}
	e.found("database", OK, "", "answers")
	var missing []string
	for _, m := range migrations {
		if m.AppliedAt.IsZero() {
			missing = append(missing, m.Name)
		}
	}
	if len(missing) > 0 {
		e.found("schema", Fail, "outflow migrate up (or run the missing files with the tool that runs yours)",
			"not applied by outflow: %s", strings.Join(missing, ", "))
		return false
	}
	e.found("schema", OK, "", "%d migrations are applied", len(migrations))
	return true
}

// lacksRight reports whether the database refused for want of a right: SQLSTATE 42501,
// https://www.postgresql.org/docs/current/errcodes-appendix.html.
func lacksRight(err error) bool {
	var coded interface{ SQLState() string }
	return errors.As(err, &coded) && coded.SQLState() == "42501"
}

// checkServer reports what of the server itself keeps messages from their ends.
func (e *examination) checkServer(h health) {
	if h.ReadOnly {
		e.found("database", Fail,
			"name all hosts in DATABASE_URL, which finds the one that takes writes, or turn default_transaction_read_only off",
			"the server is read-only: it is a standby, as an old primary is after a failover, "+
				"or default_transaction_read_only is on")
	}
	if h.Encoding != "UTF8" {
		e.found("encoding", Warn, "keep headers to the characters that it has, or move to a database in UTF8",
			"the database's encoding is %s: a header with a character that it lacks is refused, "+
				"and errors are noted in ASCII", h.Encoding)
	}
}

func (e *examination) checkRole(h health) {
	may := func(yes bool) string {
		if yes {
			return "may"
		}
		return "may not"
	}
	rights := fmt.Sprintf("role %s %s enqueue, %s run the daemons, %s operate",
		h.Role, may(h.Produces), may(h.Dispatches), may(h.Operates))
	if h.Operates {
		e.found("rights", OK, "", "%s", rights)
		return
	}
	e.found("rights", Warn, "outflow grants -operator "+h.Role+" prints what it needs to operate", "%s", rights)
}

// checkClock compares the database's clock with the middle of the round trip.
func (e *examination) checkClock(h health, began, ended time.Time) {
	trip := ended.Sub(began)
	skew := h.Clock.Sub(began.Add(trip / 2))
	if skew.Abs() > clockSkew+trip/2 {
		e.found("clock", Warn, "synchronise both clocks; deliveries use the database's only, but logs will not match",
			"this host and the database are %s apart", skew.Abs().Round(time.Millisecond))
		return
	}
	e.found("clock", OK, "", "this host and the database agree within %s",
		max(skew.Abs(), trip/2).Round(time.Millisecond))
}

func (e *examination) checkSnapshots(h health) {
	unseen := ""
	if !h.SeesAll {
		unseen = " (as far as this role sees: pg_read_all_stats shows all)"
	}
	held := false
	for _, s := range h.Snapshots {
		if s.HeldFor(oldSnapshot) {
			held = true
			e.found("snapshots", Warn, s.Remedy(), "%s%s", s, unseen)
		}
	}
	if !held {
		e.found("snapshots", OK, "", "none is older than %s%s", oldSnapshot, unseen)
	}
}

// deferAll has starters look at the keys of all followers.
const deferAll = "as the owner of the outbox: INSERT INTO outbox.deferred_releases (destination, " +
	"ordering_key) SELECT DISTINCT destination, ordering_key FROM outbox.messages WHERE follower; " +
	"starters do the rest"

// checkOrder reports ordering keys whose messages wait for somebody.
func (e *examination) checkOrder(ctx context.Context) {
	blocked, err := e.database.Blocked(ctx)
	stranded := 0
	if err == nil {
		stranded, err = e.database.strandedKeys(ctx)
	}
	switch {
	case err != nil:
		e.found("order", Warn, seeGrants, "%v", err)
		return
	case len(blocked) == 0 && stranded == 0:
		e.found("order", OK, "", "no ordering key is blocked")
		return
	case stranded > 0:
		e.found("order", Fail, deferAll, "%d ordering keys have messages that nothing releases", stranded)
	}
	for _, b := range blocked[:min(len(blocked), maxNamed)] {
		e.found("order", Warn, "outflow list -state dead shows which; then outflow retry, redirect or skip them",
			"%s: dead messages block %d ordering keys; the oldest message behind them has been due for %s",
			outflow.DisplayDestination(b.Destination), b.Keys,
			time.Duration(b.OldestSeconds*float64(time.Second)).Round(time.Second))
	}
	if more := len(blocked) - maxNamed; more > 0 {
		e.found("order", Warn, "outflow status shows them all", "%d more destinations have blocked ordering keys", more)
	}
}

// checkDead names the destinations with the most dead messages: nothing but an operator brings
// these back.
func (e *examination) checkDead(ctx context.Context) {
	counts, err := e.database.dead(ctx)
	if err != nil {
		e.found("dead", Warn, seeGrants, "%v", err)
		return
	}
	if len(counts) == 0 {
		e.found("dead", OK, "", "no message is dead, but for dismissed ones")
		return
	}
	slices.SortStableFunc(counts, func(a, b PhaseCount) int { return b.Messages - a.Messages })
	named := counts[:min(len(counts), maxNamed)]
	for _, c := range named {
		shown := outflow.DisplayDestination(c.Destination)
		remedy := "fix the cause, then outflow retry -state dead -destination " + text.ShellWord(c.Destination) +
			"; or outflow dismiss with the same filter, and -why"
		if shown != c.Destination {
			remedy = "fix the cause, then outflow retry ID: outflow list -state dead shows which; " +
				"or outflow dismiss -why REASON ID"
		}
		e.found("dead", Warn, remedy, "%s: %d dead, such as: %s", shown, c.Messages, c.LastError)
	}
	if others := counts[len(named):]; len(others) > 0 {
		more := 0
		for _, c := range others {
			more += c.Messages
		}
		e.found("dead", Warn, "outflow status shows them all", "%d more dead for %d destinations", more, len(others))
	}
}

// checkNotifications: they wake those who wait for the end of a message. Starters poll.
func (e *examination) checkNotifications(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	if e.DatabaseErr != nil {
		e.found("notify", Skipped, "", "the database could not be asked")
		return
	}
	arrives, err := e.database.receivesNotifications(ctx)
	switch {
	case err != nil:
		e.found("notify", Warn, "check DATABASE_URL, and that the server is no standby", "%v", err)
	case !arrives:
		e.found("notify", Warn, "have programs that wait (package outboxdb/wait) listen on a connection past the "+
			"transaction pooler: wait.ListenOn", "notifications do not arrive: "+
			"those who wait for a message's end see it by polling, up to a second late")
	default:
		e.found("notify", OK, "", "notifications arrive")
	}
}
