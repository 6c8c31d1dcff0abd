package database

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5/pgconn"
)

// TooSlow makes an error that is context.DeadlineExceeded, too, of a statement that the
// server ended for taking too long: by statement_timeout (query_canceled, 57014), or
// lock_timeout (lock_not_available, 55P03). Any other error stays as it is.
func TooSlow(err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && (pg.Code == "57014" || pg.Code == "55P03") {
		return slowError{err}
	}
	return err
}

type slowError struct{ error }

func (e slowError) Unwrap() []error { return []error{e.error, context.DeadlineExceeded} }
