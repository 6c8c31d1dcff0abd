package outboxdb

import (
	"context"
	"fmt"
	"time"
)

const (
	// failuresLinger is how long failures are summed before they are written: hundreds may fail
	// together.
	failuresLinger = 100 * time.Millisecond
	// noteTries bounds the attempts to write a note.
	noteTries = 3
)

// noteFailuresSQL adds failures to a breaker.
//   - $1 is the breaker, $2 the number of failures, $3 the last error.
//   - $4: so many failures open the breaker. $5 and $6 are the shortest and the longest time that
//     it then stays open by itself.
//   - $7 is the time for which the destination asked for no request, or zero. It opens the breaker
//     at once, and for at least that time.
//   - After open_until, another failure is the probe's, or says as much, and opens the breaker
//     again. Failures before it are of messages that were sent before the breaker opened.
//   - A failure while the retrying runs are signalled ends that. The rest is signalled a second
//     later.
//   - $8 is why the destination does not exist, or NULL. With the first such note its retrying runs
//     are signalled: they leave their messages to their rows.
//   - $9 says that it exists again.
const noteFailuresSQL = `
INSERT INTO outbox.destinations AS h
       (destination, failures, failing_since, failed_at, openings, open_until, retry_after_until, last_error,
        missing_since, missing_reason, recovered_at)
VALUES ($1, $2, now(), now(), ($2::int >= $4::int OR $7::interval > interval '0')::int,
        CASE WHEN $2::int >= $4::int OR $7::interval > interval '0'
             THEN now() + greatest($5::interval, $7::interval) END,
        CASE WHEN $7::interval > interval '0' THEN now() + $7::interval END, $3,
        CASE WHEN $8::text IS NOT NULL THEN now() END, $8, CASE WHEN $8::text IS NOT NULL THEN now() END)
ON CONFLICT (destination) DO UPDATE
   SET failures = h.failures + $2, last_error = $3,
       failing_since = coalesce(h.failing_since, now()), failed_at = now(),
       missing_since = CASE WHEN $8::text IS NOT NULL THEN coalesce(h.missing_since, now())
                            WHEN NOT $9::boolean THEN h.missing_since END,
       missing_reason = coalesce($8, CASE WHEN NOT $9::boolean THEN h.missing_reason END),
       retry_after_until = CASE WHEN $7::interval > interval '0'
                                THEN greatest(h.retry_after_until, now() + $7::interval)
                                ELSE h.retry_after_until END,
       (openings, open_until, probe_until, recovered_at, signalled_destination, signalled_id) = (
           SELECT CASE WHEN o.opens THEN h.openings + 1 ELSE h.openings END,
                  CASE WHEN o.opens THEN now() + greatest(
                           least($5::interval * (1 << least(h.openings, 20))::float8, $6::interval), $7::interval)
                       ELSE h.open_until END,
                  CASE WHEN o.opens THEN NULL
                       WHEN h.recovered_at IS NOT NULL THEN now() + interval '1 second' ELSE h.probe_until END,
                  CASE WHEN o.first_missing OR NOT o.opens AND h.recovered_at IS NOT NULL THEN now()
                       WHEN $8 IS NOT NULL THEN h.recovered_at END,
                  CASE WHEN NOT o.first_missing AND (NOT o.opens OR $8 IS NOT NULL) THEN h.signalled_destination END,
                  CASE WHEN NOT o.first_missing AND (NOT o.opens OR $8 IS NOT NULL) THEN h.signalled_id END
             FROM (SELECT $8 IS NOT NULL AND h.missing_since IS NULL AS first_missing,
                          CASE WHEN h.open_until IS NULL THEN h.failures + $2 >= $4::int OR $7::interval > interval '0'
                               ELSE h.open_until <= now() OR now() + $7::interval > h.open_until END AS opens) AS o)`

// noteSuccessSQL closes the breaker $1, and notes the recovery for the retrying runs behind it. A
// scanner that is at signalling them keeps its lease.
const noteSuccessSQL = `
UPDATE outbox.destinations AS h
   SET ` + closedSQL + `
 WHERE h.destination = $1`

// noteReachedSQL is noteSuccessSQL for a destination that a message has reached.
const noteReachedSQL = `
INSERT INTO outbox.destinations AS h (destination, delivered_at) VALUES ($1, now())
ON CONFLICT (destination) DO UPDATE
   SET delivered_at = now(), ` + closedSQL

// closedSQL is what a success writes. Before the end of a wait that the destination asked for, a
// success is of a message that was sent before it asked: it changes nothing.
const closedSQL = `
       missing_since = NULL, missing_reason = NULL,
       (failures, failing_since, openings, open_until,
        probe_destination, probe_id, probe_until, last_error, recovered_at) = (
    SELECT h.failures, h.failing_since, h.openings, h.open_until,
           h.probe_destination, h.probe_id, h.probe_until, h.last_error, h.recovered_at
     WHERE h.retry_after_until > now()
    UNION ALL
    SELECT 0, NULL, 0, NULL, NULL, NULL, CASE WHEN h.open_until IS NULL THEN h.probe_until END, NULL,
           CASE WHEN h.open_until IS NOT NULL THEN now() ELSE h.recovered_at END
     WHERE (h.retry_after_until > now()) IS NOT TRUE)`

// knownSQL reports whether a message has ever reached the destination $1.
const knownSQL = `
SELECT EXISTS (SELECT FROM outbox.destinations AS h WHERE h.destination = $1 AND h.delivered_at IS NOT NULL)`

// unwritten are the notes of one breaker that are to be written: slowFor, then reached or success,
// then the failures after it.
type unwritten struct {
	slowFor    time.Duration // zero: nothing to write
	reached    bool          // a message reached the destination
	success    bool          // the breaker is to be closed, though no message reached the destination
	failures   int
	lastError  string
	retryAfter time.Duration
	missing    string // why the destination does not exist
	found      bool   // it was missing, and exists
}

// writeNotes has one goroutine for each breaker write its notes, in order. It runs under the lock.
func (b *breakers) writeNotes(name string, d *destinationState) {
	if d.writing {
		return
	}
	d.writing = true
	go func() {
		for b.writeNext(name, d) {
		}
	}()
}

// writeNext writes what there is, and reports whether there may be more.
func (b *breakers) writeNext(name string, d *destinationState) bool {
	b.mu.Lock()
	notes := d.notes
	if notes.slowFor == 0 && !notes.reached && !notes.success && notes.failures == 0 {
		d.writing, d.retryAfterUnwritten, d.missingUnwritten, d.notes.retryAfter = false, false, false, 0
		b.mu.Unlock()
		return false
	}
	d.notes.slowFor, d.notes.reached, d.notes.success = 0, false, false
	b.mu.Unlock()
	if notes.slowFor > 0 && !b.wrote(name, b.write(noteSlowSQL, name, notes.slowFor)) {
		b.mu.Lock()
		d.slowness.until = time.Time{}
		b.mu.Unlock()
	}
	switch {
	case notes.reached:
		b.writeSuccess(noteReachedSQL, name, d)
	case notes.success:
		b.writeSuccess(noteSuccessSQL, name, d)
	case notes.failures > 0:
		b.writeFailures(name, d)
	}
	return true
}

// writeSuccess writes a success. The next one is written where this one could not be.
func (b *breakers) writeSuccess(statement, name string, d *destinationState) {
	if !b.wrote(name, b.write(statement, name)) {
		b.mu.Lock()
		d.failing, d.notedAt = true, time.Time{}
		b.mu.Unlock()
	}
}

// writeFailures writes the failures of the next failuresLinger together.
func (b *breakers) writeFailures(name string, d *destinationState) {
	time.Sleep(failuresLinger)
	b.mu.Lock()
	notes := d.notes
	d.notes.failures, d.notes.retryAfter, d.notes.missing, d.notes.found = 0, 0, "", false
	b.mu.Unlock()
	if notes.failures == 0 {
		return
	}
	toOpen, longest := failuresToOpen, maxOpening
	if notes.missing != "" {
		toOpen, longest = 1, maxMissingOpening
	}
	b.wrote(name, b.write(noteFailuresSQL, name, notes.failures, notes.lastError, toOpen, firstOpening, longest,
		notes.retryAfter, orNull(notes.missing), notes.found))
}

// write writes a note, and tries several times: writing it twice does no harm. A note that can't be
// written is dropped. While the database fails, nothing is claimed either, and the next failure or
// success is written again.
func (b *breakers) write(statement string, args ...any) (err error) {
	for range noteTries {
		ctx, cancel := context.WithTimeout(context.Background(), statementTimeout)
		_, err = b.pool.Exec(ctx, statement, args...)
		cancel()
		if err == nil {
			return nil
		}
	}
	return err
}

// wrote keeps the error of a note for the next claim to return, and reports whether there was none.
func (b *breakers) wrote(name string, err error) bool {
	if err == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.problem = fmt.Errorf("writing the breaker of %s: %w", name, err)
	return false
}

// takeProblem returns that error, once.
func (b *breakers) takeProblem() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	err := b.problem
	b.problem = nil
	return err
}
