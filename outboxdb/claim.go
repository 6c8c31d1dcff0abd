package outboxdb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/text"
	"github.com/outflowhq/outflow/outbox"
)

const (
	// heldBackFor is how long messages are parked whose destination this process can't
	// send to; heldBackRows bounds a statement that parks them, and heldBackEvery is the
	// least time between two: a million such messages cost no more than these.
	heldBackFor   = time.Minute
	heldBackRows  = 1000
	heldBackEvery = time.Second
)

// Claim leases due messages to this process: of each target and destination at most
// req.Allowance less those open already, oldest first. Concurrent scanners never
// get the same row. A statement makes claimable whose time has come, one finds the
// destinations and, where any has due messages, another claims; an idle call is the first
// two, or none. Where one of these is too slow, which a held snapshot makes it, the
// destinations of before go on.
func (s *Store) Claim(ctx context.Context, req outbox.ClaimRequest) (outbox.Claimed, error) {
	s.walk.mu.Lock()
	defer s.walk.mu.Unlock()
	unparkErr := s.unpark(ctx)
	walkErr := s.findDestinations(ctx)
	if walkErr != nil && len(s.walk.marks) == 0 {
		return outbox.Claimed{}, errors.Join(unparkErr, walkErr)
	}
	noteErr := s.destinations.takeProblem()
	probes := s.destinations.takeChosen()
	asked := s.walk.ask(req, s.destinations, time.Now())
	problem := errors.Join(unparkErr, walkErr, noteErr, s.holdBack(ctx, asked.refused))
	if len(asked.destinations) == 0 && len(probes) == 0 {
		return s.walk.claimed(nil, problem, asked.refused), nil
	}
	messages, rows, err := s.take(ctx, req.Lease, claim, asked.destinations, asked.targets, asked.marks, asked.quotas, asked.before,
		req.MaxMessages, req.MaxBytes, req.Lease, mostRetrying, probes)
	if err != nil {
		s.destinations.keepChosen(probes)
		return outbox.Claimed{Problem: noteErr}, fmt.Errorf("claiming up to %d messages: %w", req.MaxMessages, err)
	}
	if slices.ContainsFunc(messages, func(m outbox.ClaimedMessage) bool { return m.Newcomer }) {
		s.destinations.claimedNewcomers(time.Now())
	}
	s.walk.learn(asked, rows, req.MaxMessages)
	return s.walk.claimed(messages, problem, asked.refused), nil
}

// holdBack parks due messages whose destinations the caller refuses, and ends those whose
// time is over or that somebody cancelled.
func (s *Store) holdBack(ctx context.Context, refused map[string]error) error {
	if len(refused) == 0 || time.Since(s.walk.heldBack) < heldBackEvery {
		return nil
	}
	s.walk.heldBack = time.Now()
	var destinations, reasons []string
	for destination, err := range refused {
		destinations = append(destinations, destination)
		reasons = append(reasons, text.Clean(err.Error()))
	}
	rows, err := s.pool.Query(ctx, holdBack, destinations, reasons, heldBackFor, heldBackRows)
	if err != nil {
		return fmt.Errorf("holding back messages of %d destinations: %w", len(destinations), err)
	}
	over, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e outbox.Ending, err error) {
		return e, row.Scan(&e.ID, &e.Generation, &e.State, &e.LastError)
	})
	if err != nil {
		return fmt.Errorf("holding back messages of %d destinations: %w", len(destinations), err)
	}
	if len(over) == 0 {
		return nil
	}
	var errs []error
	for i, result := range s.finishAll(ctx, over) {
		if result.Err != nil && !errors.Is(result.Err, outflow.ErrNotFound) && !errors.Is(result.Err, errLocked) {
			errs = append(errs, fmt.Errorf("marking message %s %s: %w", over[i].ID, over[i].State, result.Err))
		}
	}
	return errors.Join(errs...)
}

// ClaimIsolated leases one suspect to this process (see outbox.QuarantineClaims), or
// none. The caller has nothing else in flight.
func (s *Store) ClaimIsolated(ctx context.Context, lease time.Duration) ([]outbox.ClaimedMessage, error) {
	messages, _, err := s.take(ctx, lease, claimAlone, lease)
	if err != nil {
		return nil, fmt.Errorf("claiming a suspect message: %w", err)
	}
	return messages, nil
}

// take runs a claiming statement, and keeps what it claimed for the runs to come.
func (s *Store) take(ctx context.Context, lease time.Duration, statement string, args ...any) ([]outbox.ClaimedMessage, []claimedRow, error) {
	began := time.Now()
	rows, err := s.pool.Query(ctx, statement, args...)
	if err != nil {
		return nil, nil, err
	}
	claimed, err := pgx.CollectRows(rows, pgx.RowToStructByNameLax[claimedRow])
	if err != nil {
		return nil, nil, err
	}
	slices.SortFunc(claimed, func(a, b claimedRow) int { return cmp.Compare(a.Seq, b.Seq) })

	messages := make([]outbox.ClaimedMessage, 0, len(claimed))
	holds := make([]*held, 0, len(claimed))
	for _, r := range claimed {
		h := &held{record: r.record(), claimed: began, lease: lease, expiresIn: r.ExpiresIn, again: r.claimedBefore(),
			taken: make(chan struct{}), settled: make(chan struct{})}
		holds = append(holds, h)
		s.destinations.see(r.Destination, r.Failing, r.Proven)
		shares, newcomer := s.destinations.shares(r.Destination)
		messages = append(messages, outbox.ClaimedMessage{Record: h.record, LeasedUntil: r.AvailableAt,
			LeaseExpired: r.Claims > 1 || r.Retrying,
			Shares:       shares, Newcomer: newcomer, Taken: h.taken, Settled: h.settled})
	}
	s.handoff.put(began, holds)
	return messages, claimed, nil
}

// claimedRow is a row as claim returns it.
type claimedRow struct {
	row
	WasAvailableAt time.Time `db:"was_available_at"`
	WasStarted     bool      `db:"was_started"`
	Retrying       bool      `db:"retrying"`
	// Seen is how many rows the claim looked at, before the bound in bytes.
	Seen int `db:"seen"`
}

// claimedBefore reports whether this may not be the first claim of the row: a run of an
// earlier claim, or of an earlier generation, may be open.
func (r claimedRow) claimedBefore() bool { return r.Generation > 1 || r.WasStarted }
