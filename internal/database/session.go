package database

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// setSettingsSQL gives a transaction the settings that the statements are written for.
const setSettingsSQL = `SET LOCAL client_encoding = 'UTF8'; SET LOCAL standard_conforming_strings = on`

// readSettingsSQL reads the settings that change what a statement means, and whether a plan may be kept.
// Results are sent in binary: DateStyle, IntervalStyle, bytea_output and the like do not change them.
const readSettingsSQL = `
SELECT pg_catalog.current_setting('client_encoding'), pg_catalog.current_setting('standard_conforming_strings'),
       pg_catalog.current_setting('default_transaction_isolation'), pg_catalog.current_setting('transaction_read_only'),
       pg_catalog.pg_backend_pid(), pg_catalog.current_setting('server_encoding'),
       pg_catalog.current_setting('enable_seqscan')`

// session describes a connection's session.
type session struct {
	refusals int64 // the counter's value when the session was read
	// needsSettings: statements need a transaction with setSettingsSQL.
	needsSettings bool
	// readOnly: the server is a standby, or refuses this role's writes.
	readOnly bool
	// asciiOnly: the database's encoding is not UTF8, and may lack characters.
	asciiOnly bool
	// mode is the execution mode that statements need, or empty for the pool's own.
	mode []any
}

// sessionKey is the key of a connection's session in its custom data.
const sessionKey = "outflow session"

// refusals counts the writes of this process that a read-only server refused. After each,
// every connection's session is read again: it may be connected to the same server.
var refusals atomic.Int64

// loadSession reads the session unless the connection has it already. becameReadOnly says
// that the server accepted writes when the session was last read.
func (c *Conn) loadSession(ctx context.Context) (becameReadOnly bool, err error) {
	before, ok := c.conn.Conn().PgConn().CustomData()[sessionKey].(session)
	if ok && before.refusals == refusals.Load() {
		c.session = before
		return false, nil
	}
	err = c.readSession(ctx)
	return ok && !before.readOnly && c.session.readOnly, err
}

// readSession uses the simple protocol, which works with every pooler and every setting.
func (c *Conn) readSession(ctx context.Context) error {
	now, conn := refusals.Load(), c.conn.Conn()
	results, err := conn.PgConn().Exec(ctx, readSettingsSQL).ReadAll()
	if err != nil {
		return fmt.Errorf("reading the session's settings: %w", err)
	}
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) != 7 {
		return errors.New("reading the session's settings: the server did not answer with one row")
	}
	row := results[0].Rows[0]
	c.session = session{
		refusals:      now,
		needsSettings: string(row[0]) != "UTF8" || string(row[1]) != "on" || string(row[2]) != "read committed",
		readOnly:      string(row[3]) == "on",
		asciiOnly:     string(row[5]) != "UTF8",
	}
	pooled := string(row[4]) != strconv.FormatUint(uint64(conn.PgConn().PID()), 10)
	c.session.mode = modeFor(conn.Config(), !pooled && string(row[6]) == "off")
	conn.PgConn().CustomData()[sessionKey] = c.session
	return nil
}

// modeFor returns the execution mode that statements need on a connection, as pgx takes it
// before their arguments. keeps says that the connection may keep a statement with its plan.
//
//   - Behind a pooler, where the server's process ID is another than the connection's, each
//     transaction may have another session. That session may lack a prepared statement, or have
//     another of the same name.
//   - With enable_seqscan, a plan from when a table was small reads all of it later.
//   - exec and simple_protocol encode by the Go type, which does not suffice for arrays. They
//     read results as text, which depends on settings.
//   - cache_describe knows the types, names no statement, and takes one round trip.
func modeFor(config *pgx.ConnConfig, keeps bool) []any {
	switch config.DefaultQueryExecMode {
	case pgx.QueryExecModeCacheDescribe:
		return nil
	case pgx.QueryExecModeCacheStatement, pgx.QueryExecModeDescribeExec:
		if keeps {
			return nil
		}
	}
	if config.DescriptionCacheCapacity < 1 {
		return []any{pgx.QueryExecModeDescribeExec}
	}
	return []any{pgx.QueryExecModeCacheDescribe}
}

func (s session) arguments(args []any) []any {
	if s.asciiOnly {
		args = asciiArguments(args)
	}
	return append(s.mode[:len(s.mode):len(s.mode)], args...)
}

// readOnlyTransaction is the SQLSTATE of a write that a read-only server refuses.
const readOnlyTransaction = "25006"

// ReadOnlyError says that a server refuses writes: it is a standby, such as the old primary
// after a failover, or default_transaction_read_only is on. The connection was closed, so
// that the pool opens another.
type ReadOnlyError struct {
	Address string
	Err     error // the server's refusal; nil where its settings showed it before
}

func (e *ReadOnlyError) Error() string {
	text := "the database server at " + e.Address + " is read-only: " +
		"it is a standby, such as the old primary after a failover, or default_transaction_read_only is on; " +
		"the connection was closed (a URL with several hosts and target_session_attrs=read-write finds the primary)"
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

func (e *ReadOnlyError) Unwrap() error { return e.Err }

// checkReadOnly closes the connection if err is a read-only server's refusal. It returns a
// ReadOnlyError then, and err otherwise.
func (c *Conn) checkReadOnly(err error) error {
	var (
		pg     *pgconn.PgError
		closed *ReadOnlyError
	)
	if errors.As(err, &pg) && pg.Code == readOnlyTransaction && !errors.As(err, &closed) {
		refusals.Add(1)
		return c.closeReadOnly(err)
	}
	return err
}

// closeReadOnly closes the connection: the pool drops it when it is released. It returns a
// ReadOnlyError that wraps err.
func (c *Conn) closeReadOnly(err error) error {
	conn := c.conn.Conn()
	address := net.JoinHostPort(conn.Config().Host, strconv.Itoa(int(conn.Config().Port)))
	if remote := conn.PgConn().Conn().RemoteAddr(); remote != nil {
		address = remote.String()
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // Close must not wait for the server
	_ = conn.Close(ctx)
	return &ReadOnlyError{Address: address, Err: err}
}
