package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.temporal.io/sdk/workflow"
)

// ProcessOrder is the shop's own workflow. It knows nothing of Outflow.
func ProcessOrder(ctx workflow.Context, o order) error {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: 10 * time.Second})
	var w *warehouse
	return workflow.ExecuteActivity(ctx, w.Ship, o).Get(ctx, nil)
}

// warehouse has the workflow's activities.
type warehouse struct{ pool *pgxpool.Pool }

// Ship ships the order. Temporal may run it again: an order is shipped once.
func (w *warehouse) Ship(ctx context.Context, o order) error {
	_, err := w.pool.Exec(ctx, `UPDATE orders SET shipped_at = now() WHERE id = $1 AND shipped_at IS NULL`, o.ID)
	if err != nil {
		return fmt.Errorf("shipping order %s: %w", o.ID, err)
	}
	return nil
}
