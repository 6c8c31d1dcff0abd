package faults

import (
	"fmt"
	"net/url"
	"strings"
)

// Agent is a Member that is known by what it says: its database connections have
// its ID as their application_name, its requests to SQS are signed for a region of
// that name, and its callbacks with a secret of its own. Its link to Temporal is
// its own, too.
type Agent struct {
	*Member
	ID       string
	Temporal *Link
}

// Hire supervises a program as an Agent, such as "starter-0". Its callbacks go to
// the receiver.
func (w *World) Hire(s *Stack, r *Receiver, programs, program string, number int) (_ *Agent, err error) {
	a := &Agent{ID: fmt.Sprintf("%s-%d", strings.TrimPrefix(program, "outflow-"), number)}
	if a.Temporal, err = NewLink("temporal, of "+a.ID, s.Temporal.Address()); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			a.Temporal.Close()
		}
	}()
	database, err := url.Parse(w.URL)
	if err != nil {
		return nil, fmt.Errorf("reading the address of the database: %w", err)
	}
	query := database.Query()
	query.Set("application_name", a.ID)
	database.Host, database.RawQuery = w.Postgres.Address(), query.Encode()
	receiver, err := r.EnvOf(a.ID)
	if err != nil {
		return nil, err
	}
	env := append(w.Env(), receiver...)
	env = append(env,
		"DATABASE_URL="+database.String(), "AWS_REGION="+a.ID, "TEMPORAL_ADDRESS="+a.Temporal.Address(),
		// What a killed process held comes back when its lease runs out; 30 s is the least.
		"OUTFLOW_LEASE=30s")
	if a.Member, err = Supervise(programs, program, env); err != nil {
		return nil, err
	}
	return a, nil
}

// is reports whether the agent runs the program.
func (a *Agent) is(program string) bool { return a.Name == program }

// Dismiss ends it for good.
func (a *Agent) Dismiss() error {
	defer a.Temporal.Close()
	return a.Stop()
}
