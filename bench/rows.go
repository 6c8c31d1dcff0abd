package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// rowsRun is a variant that reads rows, with its processes running and its first messages delivered.
type rowsRun struct {
	source      source
	conn        *pgx.Conn
	dispatchers []*child
}

// startRows empties the variant's table, starts its processes, has them deliver a few messages, and
// empties the queue service. What it started is in the result where it fails too.
func (w *world) startRows(ctx context.Context, variant, taskQueue string) (r rowsRun, err error) {
	r.source = w.source(variant)
	if r.conn, err = pgx.Connect(ctx, w.DatabaseURL); err != nil {
		return r, fmt.Errorf("connecting to the database: %w", err)
	}
	if _, err := r.conn.Exec(ctx, "TRUNCATE "+r.source.tables+" CASCADE"); err != nil {
		return r, fmt.Errorf("emptying the table: %w", err)
	}
	if r.dispatchers, err = w.dispatchers(variant, taskQueue); err != nil {
		return r, err
	}
	if _, err := r.source.enqueue(ctx, r.conn, taskQueue, load{messages: warmup}, nil); err != nil {
		return r, err
	}
	if err := await(ctx, r.conn, r.source, r.dispatchers); err != nil {
		return r, err
	}
	if _, err := w.settle(ctx, r.dispatchers...); err != nil {
		return r, err
	}
	return r, w.queues.reset(ctx)
}

// stop ends the processes, and closes the connection.
func (r rowsRun) stop(ctx context.Context) error {
	var errs []error
	for _, c := range r.dispatchers {
		errs = append(errs, c.stop())
	}
	if r.conn != nil {
		errs = append(errs, r.conn.Close(context.WithoutCancel(ctx)))
	}
	return errors.Join(errs...)
}
