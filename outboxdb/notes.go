package outboxdb

import (
	"context"
	"fmt"
	"time"
)

// noteFailures adds failures ($2) of one breaker ($1) and the last one's words ($3).
// Beyond failuresToOpen ($4) they open it. One with a time for which the destination asked
// to be left alone ($7) opens it at once, and for no less than that. After open_until
// another failure is the probe's answer, or as good, and opens it again; what comes before
// are stragglers from before it opened. A failure while the retrying runs are signalled
// ends that, and leaves the rest for another after a second. $5 and $6 are the first and
// the longest time that it stays open by itself.
const noteFailures = `
INSERT INTO outbox.destinations AS h (destination, failures, failing_since, openings, open_until, asked_until, last_error)
VALUES ($1, $2, now(), ($2::int >= $4::int OR $7::interval > interval '0')::int,
        CASE WHEN $2::int >= $4::int OR $7::interval > interval '0' THEN now() + greatest($5::interval, $7::interval) END,
        CASE WHEN $7::interval > interval '0' THEN now() + $7::interval END, $3)
ON CONFLICT (destination) DO UPDATE
   SET failures = h.failures + $2, last_error = $3,
       failing_since = coalesce(h.failing_since, now()),
       asked_until = CASE WHEN $7::interval > interval '0' THEN greatest(h.asked_until, now() + $7::interval) ELSE h.asked_until END,
       (openings, open_until, probe_until, recovered_at, told_of, told_id) = (
           SELECT CASE WHEN o.opens THEN h.openings + 1 ELSE h.openings END,
                  CASE WHEN o.opens THEN now() + greatest(least($5::interval * (1 << least(h.openings, 20))::float8, $6::interval), $7::interval)
                       ELSE h.open_until END,
                  CASE WHEN o.opens THEN NULL WHEN h.recovered_at IS NOT NULL THEN now() + interval '1 second' ELSE h.probe_until END,
                  CASE WHEN NOT o.opens AND h.recovered_at IS NOT NULL THEN now() END,
                  CASE WHEN NOT o.opens THEN h.told_of END,
                  CASE WHEN NOT o.opens THEN h.told_id END
             FROM (SELECT CASE WHEN h.open_until IS NULL THEN h.failures + $2 >= $4::int OR $7::interval > interval '0'
                               ELSE h.open_until <= now() OR now() + $7::interval > h.open_until END AS opens) AS o)`

// noteSuccess closes the breaker, and leaves a note for the retrying runs of what was
// closed to them. Whoever is at signalling them keeps the lease.
const noteSuccess = `
UPDATE outbox.destinations AS h
   SET ` + closed + `
 WHERE h.destination = $1`

// noteReached is noteSuccess for a destination that a message has reached.
const noteReached = `
INSERT INTO outbox.destinations AS h (destination, delivered_at) VALUES ($1, now())
ON CONFLICT (destination) DO UPDATE
   SET delivered_at = now(), ` + closed

// closed is what a success writes. Where the destination asked to be left alone, a success
// before that time is of a message that was sent before: it changes nothing.
const closed = `(failures, failing_since, openings, open_until, probe_of, probe_id, probe_until, last_error, recovered_at) = (
    SELECT h.failures, h.failing_since, h.openings, h.open_until, h.probe_of, h.probe_id, h.probe_until, h.last_error, h.recovered_at
     WHERE h.asked_until > now()
    UNION ALL
    SELECT 0, NULL, 0, NULL, NULL, NULL, CASE WHEN h.open_until IS NULL THEN h.probe_until END, NULL,
           CASE WHEN h.open_until IS NOT NULL THEN now() ELSE h.recovered_at END
     WHERE (h.asked_until > now()) IS NOT TRUE)`

// noteSlow says that a target ($1) is slow for the time $2 from now, at least.
const noteSlow = `
INSERT INTO outbox.destinations AS h (destination, slow_until) VALUES ($1, now() + $2::interval)
ON CONFLICT (destination) DO UPDATE SET slow_until = greatest(h.slow_until, now() + $2::interval)`

// reachedBefore reports whether a message has ever reached a destination.
const reachedBefore = `
SELECT EXISTS (SELECT FROM outbox.destinations AS h WHERE h.destination = $1 AND h.delivered_at IS NOT NULL)`

// tell has one goroutine for each destination tell what is to be told, in order.
func (h *destinations) tell(destination string, k *known) {
	if k.telling {
		return
	}
	k.telling = true
	go func() {
		for h.tellNext(destination, k) {
		}
	}()
}

// tellNext writes one thing and reports whether there may be another. It takes the lock.
func (h *destinations) tellNext(destination string, k *known) bool {
	h.mu.Lock()
	slow, succeeded, answered, failures := k.slowFor, k.succeeded, k.answered, k.failures
	if slow == 0 && !succeeded && !answered && failures == 0 {
		k.telling, k.closing, k.retryAfter = false, false, 0
		h.mu.Unlock()
		return false
	}
	k.slowFor, k.succeeded, k.answered = 0, false, false
	h.mu.Unlock()
	if slow > 0 && !h.wrote(destination, h.write(noteSlow, destination, slow)) {
		h.mu.Lock()
		k.slowUntil = time.Time{}
		h.mu.Unlock()
	}
	if succeeded || answered {
		note := noteSuccess
		if succeeded {
			note = noteReached
		}
		if !h.wrote(destination, h.write(note, destination)) {
			h.mu.Lock()
			k.failing, k.noted = true, time.Time{}
			h.mu.Unlock()
		}
		return true
	}
	if failures == 0 {
		return true
	}
	time.Sleep(failuresLinger)
	h.mu.Lock()
	failures, lastError, after := k.failures, k.lastError, k.retryAfter
	k.failures, k.retryAfter = 0, 0
	h.mu.Unlock()
	if failures > 0 {
		h.wrote(destination, h.write(noteFailures, destination, failures, lastError, failuresToOpen, firstOpening, lastOpening, after))
	}
	return true
}

// wrote keeps what kept a note from being written for the next claim to say, and
// reports whether it was written.
func (h *destinations) wrote(destination string, err error) bool {
	if err == nil {
		return true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.problem = fmt.Errorf("noting how %s does: %w", destination, err)
	return false
}

// takeProblem returns it, once.
func (h *destinations) takeProblem() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	err := h.problem
	h.problem = nil
	return err
}

// write writes a note, and tries it a few times: to write it twice does no harm.
// What can't be written is dropped: while the database fails, nothing is claimed
// either, and the next failure or success says it again.
func (h *destinations) write(note string, args ...any) (err error) {
	for range noteTries {
		ctx, cancel := context.WithTimeout(context.Background(), statementTimeout)
		_, err = h.pool.Exec(ctx, note, args...)
		cancel()
		if err == nil {
			return nil
		}
	}
	return err
}
