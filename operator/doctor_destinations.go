package operator

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/text"
	"github.com/outflowhq/outflow/outbox"
)

// checkDestinations looks up where pending messages are to go, some targets of each scheme.
func (e *examination) checkDestinations(ctx context.Context) {
	if !e.hasSchema {
		e.found("destinations", Skipped, "", "the table could not be read")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 3*checkTimeout)
	defer cancel()
	targets, err := e.database.pendingTargets(ctx, maxTargets)
	if err != nil {
		e.found("destinations", Warn, seeGrants, "%v", err)
		return
	}
	if len(targets) == 0 {
		e.found("destinations", OK, "", "no message is pending")
		return
	}
	byScheme := map[string][]pendingTarget{}
	for _, t := range targets {
		byScheme[t.Scheme] = append(byScheme[t.Scheme], t)
	}
	for _, scheme := range slices.Sorted(maps.Keys(byScheme)) {
		e.checkScheme(ctx, scheme, byScheme[scheme])
	}
	e.checkPublishers(ctx, byScheme)
}

// processes returns the running processes, and false where they can't be listed, which it reports once.
func (e *examination) processes(ctx context.Context) ([]RunningProcess, bool) {
	if e.unlisted {
		return nil, false
	}
	running, err := e.database.Running(ctx)
	if err != nil {
		e.unlisted = true
		e.found("processes", Warn, seeGrants, "%v", err)
	}
	return running, err == nil
}

// checkPublishers reports schemes of pending messages that no running process publishes to.
func (e *examination) checkPublishers(ctx context.Context, byScheme map[string][]pendingTarget) {
	running, ok := e.processes(ctx)
	if !ok {
		return
	}
	if len(running) == 0 {
		e.found("publishers", Warn, "start outflow-starter and outflow-worker",
			"no starter or worker has said within the last minute that it runs")
		return
	}
	unserved := 0
	for _, scheme := range slices.Sorted(maps.Keys(byScheme)) {
		if Publishes(running, scheme) {
			continue
		}
		unserved++
		severity, wait, deadAfter := Fail, "wait", ""
		if !byScheme[scheme][0].DueInScheme {
			severity, wait, deadAfter = Warn, "will wait when they are due", " from then on"
		}
		e.found("publishers", severity,
			"start a starter and workers that publish to "+scheme+"://, or outflow redirect the messages; "+
				"after OUTFLOW_MISSING_GRACE"+deadAfter+" they end dead",
			"messages to %d destinations of %s:// %s: no running starter or worker publishes to it (running: %s)",
			byScheme[scheme][0].OfScheme, scheme, wait, Describe(running))
	}
	if unserved == 0 {
		e.found("publishers", OK, "", "running processes publish to every scheme of pending messages: %s",
			strings.Join(slices.Sorted(maps.Keys(byScheme)), ", "))
	}
}

func (e *examination) checkScheme(ctx context.Context, scheme string, targets []pendingTarget) {
	all := targets[0].OfScheme
	lookup := e.Lookups[scheme]
	switch why := e.NoLookup[scheme]; {
	case lookup == nil && why != "":
		e.found("destinations", Skipped, "", "%d of %s:// are not looked up, such as %s: %s",
			all, scheme, outflow.DisplayDestination(targets[0].Destination), why)
		return
	case lookup == nil:
		e.found("destinations", Skipped, "", "%d of %s:// are not looked up: this command has no publisher for them",
			all, scheme)
		return
	}
	if advice := e.Advice[scheme]; advice != nil {
		for _, t := range targets {
			e.foundDestination(t, lookup(ctx, t.Destination), advice)
		}
	} else {
		e.checkHosts(ctx, scheme, targets, lookup)
	}
	if all > len(targets) {
		e.found("destinations", Skipped, "", "%d of %s:// have more than the others, and were looked up; %d were not",
			len(targets), scheme, all-len(targets))
	}
}

func (e *examination) foundDestination(t pendingTarget, err error, advice func(string, error) string) {
	destination := t.Destination
	switch {
	case err == nil:
		e.missing[destination] = false
		e.found("destinations", OK, "", "%s is there", destination)
	case outflow.IsPermanent(err):
		e.missing[destination] = outbox.IsMissing(err)
		e.found("destinations", Fail, advice(destination, err), "%d pending: %v", t.Messages, err)
	case errors.Is(err, context.DeadlineExceeded):
		e.found("destinations", Warn, advice(destination, err), "%s: no answer in time", destination)
	default:
		e.found("destinations", Warn, advice(destination, err), "%v", err)
	}
}

// checkHosts reports which hosts these settings would not send to.
func (e *examination) checkHosts(ctx context.Context, scheme string, targets []pendingTarget, lookup Lookup) {
	allowed, refused, pending := 0, 0, 0
	for _, t := range targets {
		err := lookup(ctx, t.Destination)
		switch {
		case err == nil:
			allowed++
		case refused < maxNamed:
			e.found("destinations", Fail, "give the daemons what the text names, and this command the same settings",
				"%d pending: %v", t.Messages, err)
			refused++
		default:
			refused++
			pending += t.Messages
		}
	}
	if allowed > 0 {
		e.found("destinations", OK, "", "%d hosts of %s:// are allowed, and have a secret", allowed, scheme)
	}
	if refused > maxNamed {
		e.found("destinations", Fail, "the same",
			"%d pending for %d more hosts of %s:// that are not allowed, or have no secret",
			pending, refused-maxNamed, scheme)
	}
}

// checkDeliveries reports which targets fail, whatever a look-up says of them: a target that exists
// may be down, or refuse what it is sent.
func (e *examination) checkDeliveries(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	targets, err := e.database.failingTargets(ctx, maxNamed)
	if err != nil {
		e.found("deliveries", Warn, seeGrants, "%v", err)
		return
	}
	if len(targets) == 0 {
		e.found("deliveries", OK, "", "no destination of pending messages fails")
		return
	}
	for _, t := range targets {
		if t.Missing != "" {
			e.foundMissing(t)
			continue
		}
		how := "do not go out"
		if t.FailingSince != nil {
			how += ", it fails since " + text.Stamp(*t.FailingSince)
		}
		if t.Open {
			how += ", its breaker is open"
		}
		e.found("deliveries", Warn, "fix what the text names; outflow status shows each destination",
			"%s: %d pending %s: %s", outflow.DisplayDestination(t.Target), t.Messages, how, t.LastError)
	}
	if more := targets[0].All - len(targets); more > 0 {
		e.found("deliveries", Warn, "outflow status shows them all",
			"%d more queues, topics or hosts whose messages do not go out", more)
	}
}

// foundMissing reports a destination that the daemons know not to exist, unless its look-up was
// reported.
func (e *examination) foundMissing(t failingTarget) {
	missing, looked := e.missing[t.Missing]
	if missing {
		return
	}
	remedy := "create it, or outflow redirect its messages"
	if advice := e.Advice[outbox.SchemeOf(t.Missing)]; looked {
		remedy = "do what the text says, or outflow redirect its messages" // it lacks what only a message shows
	} else if advice != nil {
		remedy = advice(t.Missing, outflow.Permanent(outflow.ErrNoDestination))
	}
	e.found("deliveries", Fail, remedy, "%d pending wait for %s, which is missing since %s: %s",
		t.Messages, outflow.DisplayDestination(t.Missing), text.Stamp(*t.MissingSince), t.LastError)
}

// checkCallbacks reports whether callbacks arrive at the producers.
func (e *examination) checkCallbacks(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	n, lastError, err := e.database.failingCallbacks(ctx)
	switch {
	case err != nil:
		e.found("callbacks", Warn, seeGrants, "%v", err)
	case n > 0:
		e.found("callbacks", Warn, "fix what the text names; outflow list -callback due shows them",
			"%d callbacks are due and their attempts failed, such as: %s", n, lastError)
	default:
		e.found("callbacks", OK, "", "no due callback has failed")
	}
}
