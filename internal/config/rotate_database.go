package config

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// rotateDatabase reads the files that a connection string names (PGPASSFILE, PGSERVICEFILE,
// certificates) again for each new connection. Where that fails, the connection uses the earlier
// content.
func rotateDatabase(connString string) func(context.Context, *pgx.ConnConfig) error {
	return func(_ context.Context, c *pgx.ConnConfig) error {
		fresh, err := pgx.ParseConfig(connString)
		if err != nil {
			return nil
		}
		c.Host, c.Port, c.Database = fresh.Host, fresh.Port, fresh.Database
		c.TLSConfig, c.Fallbacks = fresh.TLSConfig, fresh.Fallbacks
		c.User, c.Password = fresh.User, fresh.Password
		return nil
	}
}
