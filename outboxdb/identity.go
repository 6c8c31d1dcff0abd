package outboxdb

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outflowhq/outflow/internal/database"
)

const (
	readIdentitySQL = `SELECT i.id FROM outbox.identity AS i`

	// makeIdentitySQL is for a schema that came without its data. Of processes that start together,
	// one writes the row.
	makeIdentitySQL = `INSERT INTO outbox.identity (id) VALUES ($1) ON CONFLICT DO NOTHING`
)

// identity remembers the database's ID.
type identity struct {
	mu sync.Mutex
	id uuid.UUID
}

// DatabaseID returns the ID of this database, and writes one where the schema came without its
// data. A Store reads it once; it is safe for concurrent use.
func (s *Store) DatabaseID(ctx context.Context) (uuid.UUID, error) {
	s.identity.mu.Lock()
	defer s.identity.mu.Unlock()
	if s.identity.id != uuid.Nil {
		return s.identity.id, nil
	}
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	id, err := databaseID(ctx, s.pool)
	if errors.Is(err, pgx.ErrNoRows) {
		if _, err = s.pool.Exec(ctx, makeIdentitySQL, uuid.New()); err == nil {
			id, err = databaseID(ctx, s.pool)
		}
	}
	if err != nil {
		return uuid.Nil, fmt.Errorf("reading outbox.identity: %w", err)
	}
	s.identity.id = id
	return id, nil
}

// FindDatabaseID returns the ID that Store.DatabaseID returns, or zero where nobody has written it.
// It reads the ID each time.
func FindDatabaseID(ctx context.Context, pool *pgxpool.Pool) (uuid.UUID, error) {
	id, err := databaseID(ctx, database.New(pool))
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return uuid.Nil, fmt.Errorf("reading outbox.identity: %w", err)
	}
	return id, nil
}

func databaseID(ctx context.Context, pool *database.Pool) (id uuid.UUID, err error) {
	err = pool.QueryRow(ctx, readIdentitySQL).Scan(&id)
	return id, err
}
