package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.temporal.io/sdk/workflow"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outboxdb"
)

const createOrders = `CREATE TABLE IF NOT EXISTS orders (id text PRIMARY KEY, item text NOT NULL)`

// Order is the input of PlaceOrder, and the payload of its message.
type Order struct {
	ID   string `json:"id"`
	Item string `json:"item"`
}

// PlaceOrder is the shop's own workflow. It does not depend on Outflow.
func PlaceOrder(ctx workflow.Context, o Order) error {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: 10 * time.Second})
	var s *shop
	return workflow.ExecuteActivity(ctx, s.Write, o).Get(ctx, nil)
}

// shop holds the shop's activities.
type shop struct {
	pool *pgxpool.Pool
	// committed wakes the scanner.
	committed func()
}

// Write writes the order and its message in one transaction. Temporal may run an activity
// again: an order that exists has its message.
func (s *shop) Write(ctx context.Context, o Order) error {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		inserted, err := tx.Exec(ctx, `INSERT INTO orders (id, item) VALUES ($1, $2)
			ON CONFLICT DO NOTHING`, o.ID, o.Item)
		if err != nil || inserted.RowsAffected() == 0 {
			return err
		}
		placed, err := outflow.JSON("sqs://orders", "order-placed", o)
		if err != nil {
			return err
		}
		_, err = outboxdb.Enqueue(ctx, tx, placed)
		return err
	})
	if err != nil {
		return fmt.Errorf("writing order %s: %w", o.ID, err)
	}
	s.committed()
	return nil
}
