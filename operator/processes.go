package operator

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

// runningSQL returns the starters and workers that run.
const runningSQL = `
SELECT p.name, p.host, coalesce(p.schemes, '{}'::text[]) AS schemes, p.schemes IS NULL AS silent, p.scans,
       p.started_at, p.seen_at, coalesce(p.trigger, '') AS trigger, coalesce(p.trigger_problem, '') AS trigger_problem
  FROM outbox.processes AS p
 WHERE ` + outboxdb.RunsSQL + `
 ORDER BY p.name, p.host, p.started_at`

// RunningProcess is a starter or worker that runs: it has said so within the last minute.
type RunningProcess struct {
	Name string `db:"name" json:"name"`
	Host string `db:"host" json:"host"`
	// Schemes are those of the destinations that it publishes to. Silent says that it does not say,
	// and may publish to any.
	Schemes []string `db:"schemes" json:"schemes"`
	Silent  bool     `db:"silent" json:"silent,omitempty"`
	// Scans says that it claims messages: it is a starter.
	Scans     bool      `db:"scans" json:"scans"`
	StartedAt time.Time `db:"started_at" json:"startedAt"`
	SeenAt    time.Time `db:"seen_at" json:"seenAt"`
	// Trigger is what wakes a starter. TriggerProblem says why it polls all the same.
	Trigger        string `db:"trigger" json:"trigger,omitempty"`
	TriggerProblem string `db:"trigger_problem" json:"triggerProblem,omitempty"`
}

func (p RunningProcess) String() string {
	schemes := "any scheme"
	if !p.Silent {
		schemes = strings.Join(p.Schemes, ", ")
	}
	return p.Name + " on " + p.Host + ": " + schemes
}

// Running returns the starters and workers that run, by name and host.
func (o *Operator) Running(ctx context.Context) ([]RunningProcess, error) {
	rows, err := o.pool.Query(ctx, runningSQL)
	if err != nil {
		return nil, fmt.Errorf("listing the running processes: %w", err)
	}
	running, err := pgx.CollectRows(rows, pgx.RowToStructByName[RunningProcess])
	if err != nil {
		return nil, fmt.Errorf("listing the running processes: %w", err)
	}
	return running, nil
}

// Publishes reports whether one of the processes publishes to a scheme, or may.
func Publishes(running []RunningProcess, scheme string) bool {
	return slices.ContainsFunc(running, func(p RunningProcess) bool {
		return p.Silent || slices.Contains(p.Schemes, scheme)
	})
}

// UnservedScheme is a scheme with pending messages that no running process publishes to.
type UnservedScheme struct {
	Scheme   string `json:"scheme"`
	Messages int    `json:"messages"`
}

// Unserved returns the schemes of pending messages that are due, as Status counted them, and that no
// running process publishes to.
func Unserved(counts []PhaseCount, running []RunningProcess) []UnservedScheme {
	unserved, pending := []UnservedScheme{}, map[string]int{}
	for _, c := range counts {
		if c.Phase != "delayed" && c.Phase != "dismissed" && !outflow.State(c.Phase).Final() {
			pending[outbox.SchemeOf(c.Destination)] += c.Messages
		}
	}
	for scheme, n := range pending {
		if !Publishes(running, scheme) {
			unserved = append(unserved, UnservedScheme{scheme, n})
		}
	}
	slices.SortFunc(unserved, func(a, b UnservedScheme) int { return strings.Compare(a.Scheme, b.Scheme) })
	return unserved
}

// Describe says which processes run, in one line; a fleet has some of each name.
func Describe(running []RunningProcess) string {
	const named = 5
	var lines []string
	for _, p := range running {
		lines = append(lines, p.String())
	}
	more := ""
	if len(lines) > named {
		more = fmt.Sprintf("; and %d more", len(lines)-named)
		lines = lines[:named]
	}
	return strings.Join(lines, "; ") + more
}
