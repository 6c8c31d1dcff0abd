package control

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outboxdb"
)

const askRights = "outflow grants -operator ROLE prints the rights that it needs"

// settings that are wrong here are wrong for a daemon.
func (e *examination) settings() {
	if e.SettingsErr != nil {
		e.say("settings", Fail, "correct what the text names: a daemon with these settings does not start", "%v", e.SettingsErr)
	}
}

// destinations looks up where pending messages are to go, some of each scheme.
func (e *examination) destinations(ctx context.Context) {
	if !e.ready {
		e.say("destinations", Skipped, "", "the table could not be read")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 3*examineTimeout)
	defer cancel()
	targets, err := e.Database.PendingTargets(ctx, examinedDestinations)
	if err != nil {
		e.say("destinations", Warn, askRights, "%v", err)
		return
	}
	if len(targets) == 0 {
		e.say("destinations", OK, "", "no message is pending")
		return
	}
	byScheme := map[string][]outboxdb.PendingTarget{}
	for _, t := range targets {
		byScheme[t.Scheme] = append(byScheme[t.Scheme], t)
	}
	for _, scheme := range slices.Sorted(maps.Keys(byScheme)) {
		e.scheme(ctx, scheme, byScheme[scheme])
	}
}

func (e *examination) scheme(ctx context.Context, scheme string, targets []outboxdb.PendingTarget) {
	all := targets[0].OfScheme
	lookup := e.Lookups[scheme]
	switch why := e.NoLookup[scheme]; {
	case lookup == nil && why != "":
		e.say("destinations", Skipped, "", "%d of %s:// are not looked up, such as %s: %s", all, scheme, outflow.DisplayDestination(targets[0].Destination), why)
		return
	case lookup == nil:
		e.say("destinations", Skipped, "", "%d of %s:// are not looked up", all, scheme)
		return
	}
	if scheme == outflow.SchemeSQS {
		for _, t := range targets {
			e.queue(t.Destination, lookup(ctx, t.Destination))
		}
	} else {
		e.hosts(ctx, scheme, targets, lookup)
	}
	if all > len(targets) {
		e.say("destinations", Skipped, "", "%d of %s:// have more than the others, and were looked up; %d were not", len(targets), scheme, all-len(targets))
	}
}

func (e *examination) queue(destination string, err error) {
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

// mostNamed bounds the hosts, and the destinations that fail or have dead messages, that
// are named one by one.
const mostNamed = 10

// hosts says which ones these settings would not send to.
func (e *examination) hosts(ctx context.Context, scheme string, targets []outboxdb.PendingTarget, lookup Lookup) {
	allowed, refused, waiting := 0, 0, 0
	for _, t := range targets {
		err := lookup(ctx, t.Destination)
		switch {
		case err == nil:
			allowed++
		case refused < mostNamed:
			e.say("destinations", Fail, "give the daemons what the text names, and this command the same settings", "%d pending: %v", t.Messages, err)
			refused++
		default:
			refused++
			waiting += t.Messages
		}
	}
	if allowed > 0 {
		e.say("destinations", OK, "", "%d hosts of %s:// are allowed, and have a secret", allowed, scheme)
	}
	if refused > mostNamed {
		e.say("destinations", Fail, "the same", "%d pending for %d more hosts of %s:// that are not allowed, or have no secret", waiting, refused-mostNamed, scheme)
	}
}

// failing says which destinations take nothing, whatever a look-up says of them: one that
// is there may be down, or refuse what it is sent.
func (e *examination) failing(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, examineTimeout)
	defer cancel()
	targets, err := e.Database.Failing(ctx, mostNamed)
	if err != nil {
		e.say("deliveries", Warn, askRights, "%v", err)
		return
	}
	if len(targets) == 0 {
		e.say("deliveries", OK, "", "no destination of pending messages fails")
		return
	}
	for _, t := range targets {
		how := "do not go out"
		if t.FailingSince != nil {
			how += ", it fails since " + stamp(*t.FailingSince)
		}
		if t.Open {
			how += ", its breaker is open"
		}
		e.say("deliveries", Warn, "mend what the text names; outflow status shows each destination", "%s: %d pending %s: %s",
			outflow.DisplayDestination(t.Target), t.Messages, how, t.LastError)
	}
	if more := targets[0].All - len(targets); more > 0 {
		e.say("deliveries", Warn, "outflow status shows them all", "%d more queues, topics or hosts whose messages do not go out", more)
	}
}

// callbacks says whether producers can be told.
func (e *examination) callbacks(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, examineTimeout)
	defer cancel()
	n, lastError, err := e.Database.FailingCallbacks(ctx)
	switch {
	case err != nil:
		e.say("callbacks", Warn, askRights, "%v", err)
	case n > 0:
		e.say("callbacks", Warn, "mend what the text names; outflow list -callback due shows them", "%d callbacks are due and were tried in vain, such as: %s", n, lastError)
	default:
		e.say("callbacks", OK, "", "none was tried in vain")
	}
}

// lacksRight reports whether the database refused for want of a right: SQLSTATE 42501,
// https://www.postgresql.org/docs/current/errcodes-appendix.html.
func lacksRight(err error) bool {
	var coded interface{ SQLState() string }
	return errors.As(err, &coded) && coded.SQLState() == "42501"
}

// identity is what tasks carry. A database that no daemon has worked on may have none.
func (e *examination) identity(ctx context.Context) {
	id, err := e.Database.DatabaseID(ctx)
	if err != nil {
		e.say("identity", Warn, askRights, "%v", err)
		return
	}
	e.id = id
}
