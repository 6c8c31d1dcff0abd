package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow/devstack/faults"
)

// streamed is a message that streams were to deliver.
type streamed struct {
	ID          uuid.UUID `db:"id"`
	State       string    `db:"state"`
	Streamed    bool      `db:"streamed"`
	Destination string    `db:"destination"`
	LastError   string    `db:"last_error"`
}

// holdStreamed prints what became of the messages of a type, and errs where one is lost: its row does
// not say that it was delivered, or it never arrived.
func (f *fleet) holdStreamed(ctx context.Context, c *chaos, of string, arrived map[uuid.UUID]int) error {
	rows, err := f.Pool.Query(ctx, `SELECT id, state, streamed, destination, coalesce(last_error, '') AS last_error
		FROM outbox.messages WHERE type = $1`, of)
	if err != nil {
		return fmt.Errorf("reading how the messages ended: %w", err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[streamed])
	if err != nil {
		return fmt.Errorf("reading how the messages ended: %w", err)
	}
	byStream, again := 0, 0
	var lost []streamed
	for _, m := range all {
		again += max(arrived[m.ID]-1, 0)
		if m.State != "delivered" || arrived[m.ID] == 0 {
			lost = append(lost, m)
		} else if m.Streamed {
			byStream++
		}
	}
	c.result("enqueued %d, delivered %d (by streams %d), lost %d, duplicates %d", len(all), len(all)-len(lost), byStream,
		len(lost), again)
	for _, m := range lost[:min(len(lost), 10)] {
		c.result("  lost %s: state %q, arrived %d times, to %s, last error %q", m.ID, m.State, arrived[m.ID],
			m.Destination, m.LastError)
	}
	switch {
	case len(lost) > 0:
		return fmt.Errorf("%d messages are lost", len(lost))
	case float64(byStream) < leastStreamed*float64(len(all)):
		return fmt.Errorf("streams delivered %d messages, of %d: this shows too little", byStream, len(all))
	}
	return nil
}

// holdBeside errs where a message of the load beside the streams is lost.
func (f *fleet) holdBeside(ctx context.Context, c *chaos, load *faults.Load) error {
	tally, err := load.Tally(ctx, besideStreams...)
	if err != nil {
		return err
	}
	c.result("beside the streams: enqueued %d, delivered %d, lost %d, duplicates %d", tally.Enqueued, tally.Delivered,
		tally.Lost, tally.Duplicates)
	return c.holdLost(tally)
}

// holdEnds errs where a program ended by itself.
func (f *fleet) holdEnds() error {
	var errs []error
	for _, m := range f.members() {
		errs = append(errs, m.Ends()...)
	}
	return errors.Join(errs...)
}
