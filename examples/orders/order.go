package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outboxdb"
)

// createOrders creates the service's own table. A real service has migrations.
const createOrders = `CREATE TABLE IF NOT EXISTS orders (
	id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
	item       text NOT NULL,
	shipped_at timestamptz)`

// order is a row of orders, and the workflow's input.
type order struct {
	ID   uuid.UUID `json:"id"`
	Item string    `json:"item"`
}

type service struct{ pool *pgxpool.Pool }

// ServeHTTP answers POST /orders {"item": "teapot"}.
func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost || r.URL.Path != "/orders" {
		http.NotFound(w, r)
		return
	}
	var o order
	if err := json.NewDecoder(r.Body).Decode(&o); err != nil || o.Item == "" {
		http.Error(w, `wants {"item": "teapot"}`, http.StatusBadRequest)
		return
	}
	if err := s.place(r.Context(), &o); err != nil {
		slog.Error("placing an order", "error", err)
		http.Error(w, "try again later", http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(o)
}

// place writes the order and starts its workflow, in one transaction: either both or none. It
// does not call Temporal, which may be down.
func (s *service) place(ctx context.Context, o *order) error {
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `INSERT INTO orders (item) VALUES ($1) RETURNING id`, o.Item).Scan(&o.ID)
		if err != nil {
			return fmt.Errorf("inserting the order: %w", err)
		}
		start, err := outflow.JSON("temporal://orders/ProcessOrder", "order-placed", o)
		if err != nil {
			return err
		}
		start.Headers = map[string]string{"workflow-id": "order-" + o.ID.String()}
		_, err = outboxdb.Enqueue(ctx, tx, start)
		return err
	})
}
