package operator

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// retainedSQL sums up what the server keeps of its log for starters that read it.
const retainedSQL = `
SELECT count(*), coalesce(max(pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), s.restart_lsn)), 0)::bigint
  FROM pg_catalog.pg_replication_slots AS s
 WHERE pg_catalog.starts_with(s.slot_name::text, 'outflow_') AND s.database = current_database()`

// muchRetained is when the log that is kept for a reader is worth a warning.
const muchRetained = 1 << 30

// retained returns how many slots the starters have, and how many bytes of the log are kept for them.
func (o *Operator) retained(ctx context.Context) (slots int, bytes int64, err error) {
	if err := o.pool.QueryRow(ctx, retainedSQL).Scan(&slots, &bytes); err != nil {
		return 0, 0, fmt.Errorf("looking at replication slots: %w", err)
	}
	return slots, bytes, nil
}

// checkTriggers reports starters whose trigger does not work, and how much of the log is kept for their
// reader.
func (e *examination) checkTriggers(ctx context.Context) {
	running, ok := e.processes(ctx)
	if !ok {
		return
	}
	starters, kinds := 0, []string{}
	said := map[string]bool{}
	for _, p := range running {
		if p.Trigger == "" {
			continue
		}
		starters++
		kinds = append(kinds, p.Trigger)
		if p.TriggerProblem != "" && !said[p.TriggerProblem] && len(said) < maxNamed {
			said[p.TriggerProblem] = true
			e.found("trigger", Warn, "do what the text says; until then that starter polls (OUTFLOW_TRIGGER, docs/triggers.md)",
				"%s on %s: trigger %s does not work: %s", p.Name, p.Host, p.Trigger, p.TriggerProblem)
		}
	}
	slices.Sort(kinds)
	kinds = slices.Compact(kinds)
	if slices.Contains(kinds, "wal") {
		e.checkRetained(ctx, len(said) > 0)
	}
	if starters > 0 && len(said) == 0 {
		e.found("trigger", OK, "", "what wakes the %d running starters: %s", starters, strings.Join(kinds, ", "))
	}
}

// checkRetained reports how much of the log is kept. Where a trigger is broken, a slot may be one that
// is being made.
func (e *examination) checkRetained(ctx context.Context, broken bool) {
	switch slots, bytes, err := e.database.retained(ctx); {
	case err != nil:
		e.found("log", Warn, "check the role's rights", "%v", err)
	case bytes > muchRetained:
		e.found("log", Warn, "restart the starter that reads the log, or set OUTFLOW_TRIGGER to listen",
			"the server keeps %d MB of its log for the starter that reads it", bytes>>20)
	case slots > 0 && !broken:
		e.found("log", OK, "", "a starter reads the log; the server keeps %d MB of it", bytes>>20)
	}
}
