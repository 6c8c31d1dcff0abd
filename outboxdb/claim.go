package outboxdb

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
)

// Claim leases due messages to this process: of each destination at most
// req.Allowance less those open already, oldest first. Concurrent scanners never
// get the same row. One statement finds the destinations and, where any has due
// messages, one claims; an idle call is one statement, or none.
func (s *Store) Claim(ctx context.Context, req outflow.ClaimRequest) (outflow.Claimed, error) {
	s.walk.mu.Lock()
	defer s.walk.mu.Unlock()
	if err := s.findDestinations(ctx); err != nil {
		return outflow.Claimed{}, err
	}
	asked := s.walk.ask(req)
	if len(asked.destinations) == 0 {
		return outflow.Claimed{Backlog: s.walk.anyDue(), Overlooked: s.walk.overlooked()}, nil
	}

	began := time.Now()
	rows, err := s.pool.Query(ctx, claim, asked.destinations, asked.marks, asked.quotas, req.MaxMessages, req.MaxBytes, req.Lease)
	if err != nil {
		return outflow.Claimed{}, fmt.Errorf("claiming up to %d messages: %w", req.MaxMessages, err)
	}
	claimed, err := pgx.CollectRows(rows, pgx.RowToStructByName[claimedRow])
	if err != nil {
		return outflow.Claimed{}, fmt.Errorf("claiming up to %d messages: %w", req.MaxMessages, err)
	}
	slices.SortFunc(claimed, func(a, b claimedRow) int { return cmp.Compare(a.Seq, b.Seq) })
	s.walk.learn(asked, claimed, req.MaxMessages)

	result := outflow.Claimed{
		Messages: make([]outflow.ClaimedMessage, 0, len(claimed)),
		Backlog:  s.walk.anyDue(), Overlooked: s.walk.overlooked(),
	}
	holds := make([]*held, 0, len(claimed))
	for _, r := range claimed {
		h := &held{record: r.record(), claimed: began, lease: req.Lease, expiresIn: r.ExpiresIn,
			taken: make(chan struct{}), settled: make(chan struct{})}
		holds = append(holds, h)
		result.Messages = append(result.Messages, outflow.ClaimedMessage{
			Record: h.record, LeasedUntil: r.AvailableAt, Taken: h.taken, Settled: h.settled})
	}
	s.handoff.put(began, holds)
	return result, nil
}

// claimedRow is a row as claim returns it.
type claimedRow struct {
	row
	WasAvailableAt time.Time `db:"was_available_at"`
	// Seen is how many rows the claim looked at, before the bound in bytes.
	Seen int `db:"seen"`
}
