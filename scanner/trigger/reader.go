package trigger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow/outbox"
)

const (
	// proveInterval lies between two marks that the reader writes to the log and must read again.
	// Starters believe a proof for proofs of these.
	proveInterval = 15 * time.Second
	proofs        = 3
	// electInterval lies between two tries to become the reader, listenPoll between two looks whether
	// this starter listens. A reader has proofTries of the former to prove itself, at its start and
	// where its proof is too old: it may only have lost the connection on which it listens.
	electInterval = 5 * time.Second
	listenPoll    = 100 * time.Millisecond
	proofTries    = 3
	// slowSlot is how long the creation of a slot takes before that is said: it waits for all
	// transactions that are open.
	slowSlot = 5 * time.Second
	// statementTimeout bounds a statement of the reader, connectTimeout a connection. relayGap lies
	// between two hints: under load one hint stands for many commits.
	statementTimeout = 5 * time.Second
	connectTimeout   = 10 * time.Second
	closeTimeout     = time.Second
	relayGap         = 2 * time.Millisecond
	// The pauses between two tries to read double between these.
	minPause = time.Second
	maxPause = 30 * time.Second
)

// untimedSQL lifts a role's timeouts: the server waits for others' transactions before it makes a slot,
// and the reader's session is idle while no message comes. What is not acknowledged for 25 s has the
// server end the connection of a host that is gone, which frees the lock.
const untimedSQL = `SET lock_timeout = 0; SET statement_timeout = 0; SET idle_session_timeout = 0;
SET tcp_user_timeout = 25000; SET tcp_keepalives_idle = 10;
SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3`

// sessionSQL prepares the reader's session: hints need not be flushed to disk.
const sessionSQL = untimedSQL + `; SET synchronous_commit = off`

// readerLock is the advisory lock of a database's reader.
const readerLock = 7_202_611_301

// electSQL takes the reader's lock, if it is free, without waiting. The second column says whether a
// starter has proved that it reads, the third which session holds the lock otherwise (pg_locks has
// the two halves of its number).
const electSQL = `
SELECT e.elected, EXISTS (SELECT FROM outbox.listeners AS l WHERE l.reads_until > now()),
       CASE WHEN e.elected THEN 0 ELSE coalesce((
           SELECT l.pid FROM pg_catalog.pg_locks AS l
            WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
              AND l.classid::bigint = $1::bigint >> 32 AND l.objid::bigint = $1::bigint & 4294967295
              AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d
                                 WHERE d.datname = pg_catalog.current_database())), 0) END
  FROM (SELECT pg_catalog.pg_try_advisory_lock($1::bigint) AS elected) AS e`

// endSQL ends the session of a reader that reads no more: a process that was stopped, or a host that
// is gone, would hold the lock for hours. It wants the same role.
const endSQL = `SELECT pg_catalog.pg_terminate_backend($1::int)`

// markSQL writes a mark to the log, which arrives on the stream like an insert.
const markSQL = `SELECT pg_catalog.pg_logical_emit_message(true, '` + markPrefix + `', $1::text)`

const hintSQL = `SELECT outbox.hint()`

const markPrefix = "outflow"

var (
	errNoProof  = errors.New("another starter has begun to read the log, and has read nothing yet")
	errSilent   = errors.New("the starter that reads the log has not been heard of lately")
	errMarkLost = errors.New("what this starter wrote to the log did not come back: the connection is dead, " +
		"or the server is behind with a large transaction")
)

// keepReading has this starter read the log whenever no other does, until ctx ends. It begins where
// notifications arrive: behind a transaction pooler the lock would be left to another's session.
func (t *Trigger) keepReading(ctx context.Context, hinted func(passed int)) {
	for pause := minPause; ctx.Err() == nil; {
		if !t.listens() {
			sleep(ctx, listenPoll)
			continue
		}
		began := time.Now()
		err := t.readInTurn(ctx)
		if ctx.Err() != nil {
			return
		}
		t.setProblem(ofReading, err)
		hinted(outbox.MaxPassed) // hints may have been lost
		if time.Since(began) > maxPause {
			pause = minPause
		}
		sleep(ctx, pause)
		pause = min(2*pause, maxPause)
	}
}

func (t *Trigger) listens() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.listener != uuid.Nil
}

// readInTurn waits until no other starter reads the log, and then reads it until that fails. The
// session that holds the lock also notifies.
func (t *Trigger) readInTurn(ctx context.Context) error {
	config, err := t.connectAs("log reader")(ctx)
	if err != nil {
		return err
	}
	inTime, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	session, err := pgx.ConnectConfig(inTime, config)
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	defer closeInTime(ctx, session.Close)
	if _, err := session.Exec(inTime, sessionSQL, pgx.QueryExecModeSimpleProtocol); err != nil {
		return fmt.Errorf("preparing the session of the log's reader: %w", err)
	}
	if err := t.awaitElection(ctx, session); err != nil {
		return err
	}
	t.setProblem(ofReading, errNotYet)
	if err := t.store.KeepReader(ctx, uuid.Nil, 0); err != nil {
		return err
	}
	if err := checkServer(ctx, session); err != nil {
		return err
	}
	slow := time.AfterFunc(t.times.slow, func() { t.setProblem(ofReading, errSlowSlot) })
	stream, err := openStream(ctx, config)
	slow.Stop()
	if err != nil {
		return err
	}
	defer closeInTime(ctx, stream.conn.Close)
	return t.relay(ctx, session, stream)
}

// awaitElection returns when this session holds the reader's lock.
func (t *Trigger) awaitElection(ctx context.Context, session *pgx.Conn) error {
	var reader int // the session that was seen to read
	for tries := 1; ; tries++ {
		var elected, proved bool
		var holder int
		inTime, cancel := context.WithTimeout(ctx, statementTimeout)
		err := session.QueryRow(inTime, electSQL, readerLock).Scan(&elected, &proved, &holder)
		silent := !elected && !proved && holder != 0 && holder == reader && tries > proofTries
		if silent {
			_, _ = session.Exec(inTime, endSQL, holder) // another role may not
		}
		cancel()
		switch {
		case err != nil:
			return fmt.Errorf("looking whether another starter reads the log: %w", err)
		case elected:
			return nil
		case proved:
			reader, tries = holder, 0
			t.setProblem(ofReading, nil)
		case silent:
			t.setProblem(ofReading, errSilent)
		case tries > proofTries:
			t.setProblem(ofReading, errNoProof)
		}
		if sleep(ctx, t.times.elect); ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// relay notifies an idle starter of inserts, and proves again and again that it would hear of them,
// until the session or the stream breaks.
func (t *Trigger) relay(ctx context.Context, session *pgx.Conn, stream *stream) error {
	ctx, end := context.WithCancelCause(ctx)
	reading := make(chan struct{})
	go func() {
		defer close(reading)
		end(stream.read(ctx))
	}()
	defer func() { end(nil); <-reading }()
	defer t.unprove(ctx)
	execute := func(statement string, args ...any) error {
		inTime, cancel := context.WithTimeout(ctx, statementTimeout)
		defer cancel()
		if _, err := session.Exec(inTime, statement, args...); err != nil {
			return fmt.Errorf("notifying a starter: %w", err)
		}
		return nil
	}
	mark := uuid.NewString()
	next, lost := time.NewTimer(0), time.NewTimer(t.times.echo)
	defer next.Stop()
	defer lost.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-stream.inserted:
			err = execute(hintSQL)
			sleep(ctx, relayGap)
		case <-next.C:
			lost.Reset(t.times.echo)
			next.Reset(t.times.prove)
			err = execute(markSQL, mark)
		case came := <-stream.marks:
			if came == mark {
				lost.Stop()
				t.proved(ctx)
			}
		case <-lost.C:
			return errMarkLost
		}
		if err != nil {
			return err
		}
	}
}

// proved notes that this starter reads the log.
func (t *Trigger) proved(ctx context.Context) {
	t.mu.Lock()
	listener := t.listener
	t.mu.Unlock()
	if listener == uuid.Nil {
		return // nobody can be told who reads; the next proof does
	}
	if err := t.store.KeepReader(ctx, listener, proofs*t.times.prove); err != nil {
		t.opts.Logger.Debug("other starters poll", "error", err)
		return
	}
	t.setProblem(ofReading, nil)
}

// unprove ends what proved has noted.
func (t *Trigger) unprove(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	if err := t.store.KeepReader(ctx, uuid.Nil, 0); err != nil {
		t.opts.Logger.Debug("other starters believe for some seconds that this one reads the log", "error", err)
	}
}

func closeInTime(ctx context.Context, closes func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	_ = closes(ctx)
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
