package db

import "context"

const createUser = `-- name: CreateUser :one
INSERT INTO users (name) VALUES ($1) RETURNING id
`

// CreateUser inserts a user and returns its ID.
func (q *Queries) CreateUser(ctx context.Context, name string) (int64, error) {
	row := q.db.QueryRow(ctx, createUser, name)
	var id int64
	err := row.Scan(&id)
	return id, err
}
