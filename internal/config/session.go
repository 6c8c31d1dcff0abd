package config

import (
	"context"
	"errors"
	"maps"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A role or a database may set anything; these are what the programs' statements are
// written for. Every pooler takes the first ones.
var (
	sessionSettings = map[string]string{
		"client_encoding": "UTF8", "standard_conforming_strings": "on",
	}
	// ownSettings are beyond what PgBouncer lets a client set.
	// https://www.pgbouncer.org/config.html#track_extra_parameters
	ownSettings = map[string]string{
		// Nothing that others created is found by its name alone.
		"search_path":                   "pg_catalog",
		"default_transaction_isolation": "read committed",
		// A claim takes milliseconds, compiling it takes hundreds.
		"jit": "off",
	}
)

// session gives every connection of c these settings, and has it reach a server that
// takes writes, unless target_session_attrs says another.
func session(c *pgxpool.Config, getenv func(string) string) {
	maps.Copy(c.ConnConfig.RuntimeParams, sessionSettings)
	maps.Copy(c.ConnConfig.RuntimeParams, ownSettings)
	if !strings.Contains(c.ConnString(), "target_session_attrs") && getenv("PGTARGETSESSIONATTRS") == "" {
		c.ConnConfig.ValidateConnect = takesWrites
	}
	next, refused := c.BeforeConnect, new(pooler)
	c.BeforeConnect = func(ctx context.Context, config *pgx.ConnConfig) error {
		if next != nil {
			if err := next(ctx, config); err != nil {
				return err
			}
		}
		if refused.refuses(ctx, config) {
			config.RuntimeParams = maps.Clone(config.RuntimeParams)
			maps.DeleteFunc(config.RuntimeParams, func(name, _ string) bool { _, own := ownSettings[name]; return own })
		}
		return nil
	}
}

var errReadOnly = errors.New("the server is read-only: it is a standby, as an old primary is after a failover, or default_transaction_read_only is on; " +
	"name all hosts in the URL, or another target_session_attrs than read-write")

// takesWrites is target_session_attrs=read-write, with an error that says what to do.
// pgx's own panics where a server answers with no row.
func takesWrites(ctx context.Context, conn *pgconn.PgConn) error {
	answer := conn.ExecParams(ctx, "SHOW transaction_read_only", nil, nil, nil, nil).Read()
	if answer.Err != nil {
		return answer.Err
	}
	if len(answer.Rows) > 0 && string(answer.Rows[0][0]) == "on" {
		return errReadOnly
	}
	return nil
}

// pooler remembers whether a pooler stands before the server that refuses settings.
type pooler struct {
	mu             sync.Mutex
	known, refused bool
}

// refuses tries a connection, once in a process. Where it fails for another reason, so
// does the connection that is about to be made, which says why.
func (p *pooler) refuses(ctx context.Context, config *pgx.ConnConfig) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known {
		return p.refused
	}
	trial := config.Config.Copy()
	trial.ValidateConnect, trial.AfterConnect = nil, nil
	conn, err := pgconn.ConnectConfig(ctx, trial)
	if err == nil {
		_ = conn.Close(ctx)
	}
	p.refused = refusesSetting(err)
	p.known = err == nil || p.refused
	return p.refused
}

// refusesSetting knows PgBouncer's "unsupported startup parameter" (08P01), and the
// codes by which others may say the same: feature_not_supported,
// invalid_parameter_value and undefined_object.
func refusesSetting(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return false
	}
	switch pg.Code {
	case "08P01", "0A000", "22023", "42704":
		return strings.Contains(pg.Message, "parameter")
	}
	return false
}
