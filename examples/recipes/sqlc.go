package recipes

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outflowhq/outflow/examples/recipes/db"
	"github.com/outflowhq/outflow/outboxdb"
)

//go:generate go run github.com/sqlc-dev/sqlc/cmd/sqlc@v1.29.0 generate

// RegisterSQLC uses the transaction that Queries.WithTx takes.
func RegisterSQLC(ctx context.Context, pool *pgxpool.Pool, queries *db.Queries, name string) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		id, err := queries.WithTx(tx).CreateUser(ctx, name)
		if err != nil {
			return err
		}
		_, err = outboxdb.Enqueue(ctx, tx, registered(id, name))
		return err
	})
}
