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

// adjust makes a transaction's settings those that the statements are written for.
const adjust = `SET LOCAL client_encoding = 'UTF8'; SET LOCAL standard_conforming_strings = on`

// settings are what matters of a session. Results come in binary, so that DateStyle,
// IntervalStyle, bytea_output and their like do not.
const settings = `
SELECT pg_catalog.current_setting('client_encoding'), pg_catalog.current_setting('standard_conforming_strings'),
       pg_catalog.current_setting('default_transaction_isolation'), pg_catalog.current_setting('transaction_read_only'),
       pg_catalog.pg_backend_pid(), pg_catalog.current_setting('server_encoding')`

// session is what was found at a connection.
type session struct {
	at int64 // the value of refusals then
	// adjusts says that statements need a transaction with other settings.
	adjusts bool
	// readOnly says that the server is a standby, or takes no writes of this role.
	readOnly bool
	// plain says that the database's encoding has not every character.
	plain bool
	// mode is the execution mode that statements need; nil is the pool's own.
	mode []any
}

// sessionKey is where a connection keeps its session.
const sessionKey = "outflow session"

// refusals counts the writes in this process that a read-only server refused. Each
// has every connection looked at once more: another to that server is as bad.
var refusals atomic.Int64

// look knows the session's settings, and asks for them where it does not. became says
// that the server is read-only now and was not.
func (c *Conn) look(ctx context.Context) (became bool, err error) {
	known, ok := c.conn.Conn().PgConn().CustomData()[sessionKey].(session)
	if ok && known.at == refusals.Load() {
		c.session = known
		return false, nil
	}
	err = c.ask(ctx)
	return ok && !known.readOnly && c.session.readOnly, err
}

// ask goes by the simple protocol, which every pooler and every setting lets pass.
func (c *Conn) ask(ctx context.Context) error {
	now, conn := refusals.Load(), c.conn.Conn()
	results, err := conn.PgConn().Exec(ctx, settings).ReadAll()
	if err != nil {
		return fmt.Errorf("looking at the session's settings: %w", err)
	}
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) != 6 {
		return errors.New("looking at the session's settings: the server did not answer with a row of them")
	}
	said := results[0].Rows[0]
	c.session = session{
		at:       now,
		adjusts:  string(said[0]) != "UTF8" || string(said[1]) != "on" || string(said[2]) != "read committed",
		readOnly: string(said[3]) == "on",
		plain:    string(said[5]) != "UTF8",
		mode:     modeFor(conn.Config(), string(said[4]) != strconv.FormatUint(uint64(conn.PgConn().PID()), 10)),
	}
	conn.PgConn().CustomData()[sessionKey] = c.session
	return nil
}

// modeFor returns the execution mode that statements need on a connection, in front of
// their arguments; pooled says that the server knows it under another process ID: a
// pooler stands between, which may give each transaction another session, where a
// prepared statement is not known, or another one of the same name is. The modes exec
// and simple_protocol encode by the Go type alone, which says too little of arrays,
// and read results whose text depends on settings. In cache_describe the types
// are known, no statement has a name, and an execution is one round trip.
func modeFor(config *pgx.ConnConfig, pooled bool) []any {
	switch config.DefaultQueryExecMode {
	case pgx.QueryExecModeCacheDescribe:
		return nil
	case pgx.QueryExecModeCacheStatement, pgx.QueryExecModeDescribeExec:
		if !pooled {
			return nil
		}
	}
	if config.DescriptionCacheCapacity < 1 {
		return []any{pgx.QueryExecModeDescribeExec}
	}
	return []any{pgx.QueryExecModeCacheDescribe}
}

func (s session) arguments(args []any) []any {
	if s.plain {
		args = plainArguments(args)
	}
	return append(s.mode[:len(s.mode):len(s.mode)], args...)
}

// readOnlyTransaction is the SQLSTATE of a write that a read-only server refuses.
const readOnlyTransaction = "25006"

// ReadOnlyError says that a server takes no writes: it is a standby, as the old
// primary is after a failover, or default_transaction_read_only is on. The connection
// was closed, so that the pool makes another.
type ReadOnlyError struct {
	Address string
	Err     error // the server's refusal; nil where it was asked before
}

func (e *ReadOnlyError) Error() string {
	text := "the database server at " + e.Address + " is read-only: it is a standby, as an old primary is after a failover, " +
		"or default_transaction_read_only is on; the connection was closed (a URL with several hosts and " +
		"target_session_attrs=read-write finds the primary)"
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

func (e *ReadOnlyError) Unwrap() error { return e.Err }

// judge leaves a connection whose server turned out to be read-only.
func (c *Conn) judge(err error) error {
	var (
		pg   *pgconn.PgError
		left *ReadOnlyError
	)
	if errors.As(err, &pg) && pg.Code == readOnlyTransaction && !errors.As(err, &left) {
		refusals.Add(1)
		return c.leave(err)
	}
	return err
}

// leave closes the connection: the pool drops it when it is released.
func (c *Conn) leave(err error) error {
	conn := c.conn.Conn()
	address := net.JoinHostPort(conn.Config().Host, strconv.Itoa(int(conn.Config().Port)))
	if remote := conn.PgConn().Conn().RemoteAddr(); remote != nil {
		address = remote.String()
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // nothing is to be said to it
	_ = conn.Close(ctx)
	return &ReadOnlyError{Address: address, Err: err}
}
