package trigger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

const (
	// publication is what a reader is told of. The migrations make it.
	publication = "outflow_messages"
	// slotTimeout bounds the creation of a slot, which waits twice for the transactions that are open.
	slotTimeout = 15 * time.Minute
	// The reader says how far it has read once in feedbackGap while it reads, and every
	// feedbackInterval. The server keeps its log up to there.
	feedbackGap      = time.Second
	feedbackInterval = 10 * time.Second
	// oldestVersion is the first of Postgres that publishes some columns of a table.
	oldestVersion = 150_000
)

// errSlowSlot is the problem of a reader whose slot is not there yet.
var errSlowSlot = errors.New("the server creates the replication slot when all transactions that are open have ended")

// serverSQL reads what a slot needs.
const serverSQL = `
SELECT pg_catalog.current_setting('server_version_num')::int, pg_catalog.current_setting('wal_level'),
       EXISTS (SELECT FROM pg_catalog.pg_publication AS p
                 JOIN pg_catalog.pg_publication_rel AS r ON r.prpubid = p.oid
                WHERE p.pubname = '` + publication + `' AND p.pubinsert
                  AND r.prrelid = 'outbox.messages'::regclass::oid)`

// PublicationSQL makes the publication that a reader needs: a superuser runs it, or the table's owner
// who may create in the database. The migrations leave it out where their role may not.
const PublicationSQL = `CREATE PUBLICATION ` + publication +
	` FOR TABLE outbox.messages (id) WHERE (NOT follower) WITH (publish = 'insert')`

// checkServer says what the server lacks for reading its log.
func checkServer(ctx context.Context, session *pgx.Conn) error {
	inTime, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	var version int
	var level string
	var published bool
	if err := session.QueryRow(inTime, serverSQL).Scan(&version, &level, &published); err != nil {
		return fmt.Errorf("looking at the server: %w", err)
	}
	switch {
	case version < oldestVersion:
		return fmt.Errorf("reading the log wants Postgres 15 or later (this is %d): use listen", version/10_000)
	case level != "logical":
		return fmt.Errorf("reading the log wants wal_level=logical (it is %s), which a restart of the server sets", level)
	case !published:
		return fmt.Errorf("there is no publication %s of inserts into outbox.messages; a superuser runs, or the "+
			"table's owner who may CREATE in the database: DROP PUBLICATION IF EXISTS %s; %s",
			publication, publication, PublicationSQL)
	}
	return nil
}

// stream is a connection on which the server sends what is inserted, as it is committed. Its slot is a
// temporary one: it ends with the connection.
type stream struct {
	conn *pgconn.PgConn
	// inserted has an entry after commits with new messages, marks each mark that was read.
	inserted chan struct{}
	marks    chan string
	position pglogrepl.LSN
}

// openStream creates a slot and starts its stream.
func openStream(ctx context.Context, config *pgx.ConnConfig) (*stream, error) {
	own := config.Config.Copy()
	own.RuntimeParams["replication"] = "database"
	own.ValidateConnect = acceptsWrites
	inTime, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := pgconn.ConnectConfig(inTime, own)
	if err != nil {
		return nil, fmt.Errorf("%sconnecting for replication: %w", advice(err), err)
	}
	if _, err := conn.Exec(inTime, untimedSQL).ReadAll(); err != nil {
		closeInTime(ctx, conn.Close)
		return nil, fmt.Errorf("preparing the connection for replication: %w", err)
	}
	s := &stream{conn: conn, inserted: make(chan struct{}, 1), marks: make(chan string, 1)}
	if err := s.start(ctx); err != nil {
		closeInTime(ctx, conn.Close)
		return nil, err
	}
	return s, nil
}

func (s *stream) start(ctx context.Context) error {
	name := fmt.Sprintf("outflow_%x", [16]byte(uuid.New()))
	inTime, cancel := context.WithTimeout(ctx, slotTimeout)
	defer cancel()
	slot, err := pglogrepl.CreateReplicationSlot(inTime, s.conn, name, "pgoutput",
		pglogrepl.CreateReplicationSlotOptions{Temporary: true, SnapshotAction: "NOEXPORT_SNAPSHOT"})
	if err != nil {
		return fmt.Errorf("%screating a replication slot: %w", advice(err), err)
	}
	if s.position, err = pglogrepl.ParseLSN(slot.ConsistentPoint); err != nil {
		return fmt.Errorf("reading where the replication slot begins: %w", err)
	}
	err = pglogrepl.StartReplication(inTime, s.conn, name, s.position, pglogrepl.StartReplicationOptions{
		PluginArgs: []string{"proto_version '1'", "publication_names '" + publication + "'", "messages 'true'"},
	})
	if err != nil {
		return fmt.Errorf("%sstarting replication: %w", advice(err), err)
	}
	return nil
}

// acceptsWrites refuses a standby, of which a connection string with several hosts may be. A
// replication connection takes simple queries alone.
func acceptsWrites(ctx context.Context, conn *pgconn.PgConn) error {
	results, err := conn.Exec(ctx, "SHOW transaction_read_only").ReadAll()
	if err != nil {
		return err
	}
	for _, r := range results {
		if len(r.Rows) > 0 && string(r.Rows[0][0]) == "on" {
			return errors.New("the server is read-only")
		}
	}
	return nil
}

// advice says what to do about a server's refusal, by its SQLSTATE.
// https://www.postgresql.org/docs/current/errcodes-appendix.html
func advice(err error) string {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return ""
	}
	switch pg.Code {
	case "42501": // insufficient_privilege
		return "the role wants the attribute REPLICATION (ALTER ROLE name REPLICATION; " +
			"on Amazon RDS: GRANT rds_replication TO name): "
	case "53400": // configuration_limit_exceeded
		return "raise max_replication_slots, or drop a slot that nobody uses: "
	case "53300": // too_many_connections
		return "raise max_wal_senders: "
	case "28000": // invalid_authorization_specification
		return "pg_hba.conf and the role must allow replication connections to this database: "
	}
	return ""
}

// read reads until the connection breaks or ctx ends.
func (s *stream) read(ctx context.Context) error {
	reportAt, pending := time.Now(), false
	for {
		inTime, cancel := context.WithTimeout(ctx, feedbackInterval)
		message, err := s.conn.ReceiveMessage(inTime)
		cancel()
		now := false
		switch m := message.(type) {
		case *pgproto3.CopyData:
			if now, err = s.take(m.Data, &pending); err != nil {
				return err
			}
		case *pgproto3.ErrorResponse:
			return fmt.Errorf("reading the log: %w", pgconn.ErrorResponseToPgError(m))
		case nil:
			if err != nil && (ctx.Err() != nil || !pgconn.Timeout(err)) {
				return fmt.Errorf("reading the log: %w", err)
			}
			now = true
		case *pgproto3.CopyDone:
			return errors.New("reading the log: the server has ended the stream")
		}
		if !now && time.Now().Before(reportAt) {
			continue
		}
		if err := s.report(ctx); err != nil {
			return fmt.Errorf("reading the log: %w", err)
		}
		reportAt = time.Now().Add(feedbackGap)
	}
}

// report tells the server how far this reader has read.
func (s *stream) report(ctx context.Context) error {
	inTime, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	return pglogrepl.SendStandbyStatusUpdate(inTime, s.conn, pglogrepl.StandbyStatusUpdate{WALWritePosition: s.position})
}

// take takes what the server sent. pending says that an insert's commit is still to come. It reports
// whether the server wants to know at once how far this reader has read.
func (s *stream) take(data []byte, pending *bool) (reportNow bool, err error) {
	if len(data) == 0 {
		return false, nil
	}
	switch data[0] {
	case pglogrepl.PrimaryKeepaliveMessageByteID:
		keepalive, err := pglogrepl.ParsePrimaryKeepaliveMessage(data[1:])
		if err != nil {
			return false, fmt.Errorf("reading the log: %w", err)
		}
		s.position = max(s.position, keepalive.ServerWALEnd)
		return keepalive.ReplyRequested, nil
	case pglogrepl.XLogDataByteID:
		log, err := pglogrepl.ParseXLogData(data[1:])
		if err != nil {
			return false, fmt.Errorf("reading the log: %w", err)
		}
		s.position = max(s.position, log.WALStart+pglogrepl.LSN(len(log.WALData)))
		return false, s.takeChange(log.WALData, pending)
	}
	return false, nil
}

func (s *stream) takeChange(data []byte, pending *bool) error {
	if len(data) == 0 {
		return nil
	}
	switch pglogrepl.MessageType(data[0]) {
	case pglogrepl.MessageTypeInsert:
		*pending = true
	case pglogrepl.MessageTypeCommit:
		if *pending {
			offer(s.inserted, struct{}{})
		}
		*pending = false
	case pglogrepl.MessageTypeMessage:
		message, err := pglogrepl.Parse(data)
		if err != nil {
			return fmt.Errorf("reading the log: %w", err)
		}
		if m, ok := message.(*pglogrepl.LogicalDecodingMessage); ok && m.Prefix == markPrefix {
			offer(s.marks, string(m.Content))
		}
	}
	return nil
}

// offer sends without waiting: one entry stands for many.
func offer[T any](to chan T, v T) {
	select {
	case to <- v:
	default:
	}
}
