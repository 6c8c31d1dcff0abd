package config

import (
	"cmp"
	"context"
	"errors"
	"io"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgservicefile"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgxpool"
)

// The session settings that the programs' statements expect, whatever a role or a database sets.
var (
	// sessionSettings are those that every pooler accepts.
	sessionSettings = map[string]string{
		"client_encoding": "UTF8", "standard_conforming_strings": "on",
	}
	// ownSettings are those that PgBouncer refuses.
	// https://www.pgbouncer.org/config.html#track_extra_parameters
	ownSettings = map[string]string{
		// No object outside of pg_catalog is found by its name alone.
		"search_path":                   "pg_catalog",
		"default_transaction_isolation": "read committed",
		// A claim takes milliseconds, compiling it takes hundreds.
		"jit": "off",
		// Planning a claim takes as long as running it, and its plan never depends on the arguments:
		// the tests of plans look at both.
		"plan_cache_mode": "force_generic_plan",
		// A plan is kept from when the tables were small. Every statement has its index.
		"enable_seqscan": "off",
	}
)

// session gives every connection of c these settings, and has it choose a server that accepts
// writes, unless target_session_attrs asks for another kind of server.
func session(c *pgxpool.Config, getenv func(string) string) {
	maps.Copy(c.ConnConfig.RuntimeParams, sessionSettings)
	maps.Copy(c.ConnConfig.RuntimeParams, ownSettings)
	if !choosesServer(c.ConnString(), getenv) {
		c.ConnConfig.ValidateConnect = acceptsWrites
	}
	next, refused := c.BeforeConnect, new(pooler)
	c.BeforeConnect = func(ctx context.Context, config *pgx.ConnConfig) error {
		if next != nil {
			if err := next(ctx, config); err != nil {
				return err
			}
		}
		refuses, err := refused.refuses(ctx, config)
		if err != nil {
			return err
		}
		if refuses {
			config.RuntimeParams = maps.Clone(config.RuntimeParams)
			maps.DeleteFunc(config.RuntimeParams, func(name, _ string) bool { _, own := ownSettings[name]; return own })
		}
		return nil
	}
}

// choosesServer reports whether the settings have target_session_attrs. pgx's configuration does
// not distinguish "any" from the default.
func choosesServer(connString string, getenv func(string) string) bool {
	setting := func(name string) string {
		m := regexp.MustCompile(`(?:^|[?&\s])` + name + `\s*=\s*'?([^&'\s]+)`).FindStringSubmatch(connString)
		if m == nil {
			return ""
		}
		value, _ := url.PathUnescape(m[1])
		return value
	}
	if cmp.Or(setting("target_session_attrs"), getenv("PGTARGETSESSIONATTRS")) != "" {
		return true
	}
	home, _ := os.UserHomeDir()
	services, err := pgservicefile.ReadServicefile(cmp.Or(setting("servicefile"), getenv("PGSERVICEFILE"),
		filepath.Join(home, ".pg_service.conf")))
	if err != nil {
		return false // pgx reports it where the settings name a file
	}
	service, err := services.GetService(cmp.Or(setting("service"), getenv("PGSERVICE")))
	return err == nil && service.Settings["target_session_attrs"] != ""
}

var errReadOnly = errors.New("the server is read-only: it is a standby, as an old primary is after a failover, or " +
	"default_transaction_read_only is on; " +
	"name all hosts in the URL, or another target_session_attrs than read-write")

// acceptsWrites is target_session_attrs=read-write, with an error that says what to do. pgx's own
// function panics where a server answers with no row.
func acceptsWrites(ctx context.Context, conn *pgconn.PgConn) error {
	answer := conn.ExecParams(ctx, "SHOW transaction_read_only", nil, nil, nil, nil).Read()
	if answer.Err != nil {
		return answer.Err
	}
	if len(answer.Rows) > 0 && string(answer.Rows[0][0]) == "on" {
		return errReadOnly
	}
	return nil
}

// pooler remembers whether a pooler before the server refuses settings; nil while that is unknown.
type pooler struct{ refused atomic.Pointer[bool] }

// refuses tries a connection, until one was answered in this process. Concurrent callers each try a
// connection, so that an address which never answers delays no other. An error is why no connection
// can be made.
func (p *pooler) refuses(ctx context.Context, config *pgx.ConnConfig) (bool, error) {
	if known := p.refused.Load(); known != nil {
		return *known, nil
	}
	trial := config.Config.Copy()
	trial.ValidateConnect, trial.AfterConnect = nil, nil
	conn, err := pgconn.ConnectConfig(ctx, trial)
	refused := refusesSetting(err)
	if err != nil && !refused {
		return false, err
	}
	if err == nil {
		closeAndWait(ctx, conn)
	}
	p.refused.Store(&refused)
	return refused, nil
}

// closeAndWait ends a connection and waits until the server has ended it: until then it counts
// towards the role's limit of connections.
func closeAndWait(ctx context.Context, conn *pgconn.PgConn) {
	_ = conn.Conn().SetDeadline(time.Now().Add(time.Second))
	conn.Frontend().Send(&pgproto3.Terminate{})
	if conn.Frontend().Flush() == nil {
		_, _ = io.Copy(io.Discard, conn.Conn())
	}
	_ = conn.Close(ctx)
}

// refusesSetting recognises PgBouncer's "unsupported startup parameter" (08P01), and the codes that
// other poolers may use: feature_not_supported, invalid_parameter_value and undefined_object.
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
