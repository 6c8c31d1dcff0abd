package database

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5/pgconn"
)

// TooSlow returns an error that wraps err and context.DeadlineExceeded if the server ended
// the statement because of statement_timeout (query_canceled, 57014) or lock_timeout
// (lock_not_available, 55P03). It returns any other error unchanged.
func TooSlow(err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && (pg.Code == "57014" || pg.Code == "55P03") {
		return slowError{err}
	}
	return err
}

type slowError struct{ error }

func (e slowError) Unwrap() []error { return []error{e.error, context.DeadlineExceeded} }
