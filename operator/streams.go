package operator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.temporal.io/sdk/client"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/text"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/workflows"
)

// How a stream stands, beside the ends of outbox.StreamEnd.
const (
	StreamRuns = "running"
	// StreamSilent: nothing was heard of it lately, and it has noted no end. Its worker was lost and no
	// other goes on, or the database was away when it ended.
	StreamSilent = "silent"
	// StreamNone: the destination has a bound, and has had no stream.
	StreamNone = "none"
)

// Stream is how the stream of a destination stands, running or not, and its bound.
type Stream struct {
	Destination string `db:"destination" json:"destination"`
	// Above is the destination's own bound: starters begin a stream above so many due messages. 0 means
	// never, nil as the starters' OUTFLOW_STREAM_ABOVE says.
	Above *int `db:"above" json:"above,omitempty"`
	// State is "running", "paused", why the last one ended (outbox.StreamEnd), "silent" or "none".
	State string `db:"state" json:"state"`
	// StartedAt is when the last one began. EndedAt is when it ended; of a silent one, when it was to be
	// heard of at the latest.
	StartedAt *time.Time `db:"started_at" json:"startedAt,omitempty"`
	EndedAt   *time.Time `db:"ended_at" json:"endedAt,omitempty"`
	// Recent says that EndedAt is less than an hour ago.
	Recent     bool  `db:"recent" json:"-"`
	Delivered  int64 `db:"delivered" json:"delivered"`
	Dead       int64 `db:"dead" json:"dead,omitempty"`
	HandedOver int64 `db:"handed_over" json:"handedOver,omitempty"`
	// PerSecond is how many messages left it a second when it was last heard of.
	PerSecond int `db:"per_second" json:"perSecond,omitempty"`
	// WorkflowID is that of the destination's streams.
	WorkflowID string `db:"-" json:"workflowId"`
}

// Open says that the stream's run goes on, or would if it were not paused.
func (s Stream) Open() bool { return s.State == StreamRuns || s.State == string(outbox.StreamPaused) }

// Ended says that the last stream has noted its end.
func (s Stream) Ended() bool {
	return !s.Open() && s.State != StreamSilent && s.State != StreamNone
}

// Broke says that the last stream could not go on, less than an hour ago.
func (s Stream) Broke() bool {
	return s.Recent && !s.Open() && s.State != string(outbox.StreamDrained)
}

// streamsSQL returns the streams of the destination $1, or of all.
const streamsSQL = `
SELECT s.destination, s.above,
       CASE WHEN s.paused THEN 'paused' WHEN s.runs_until > now() THEN 'running' WHEN s.ended IS NOT NULL THEN s.ended
            WHEN s.started_at IS NOT NULL THEN 'silent' ELSE 'none' END AS state,
       s.started_at, CASE WHEN s.runs_until <= now() THEN s.runs_until ELSE s.ended_at END AS ended_at,
       coalesce(coalesce(s.ended_at, s.runs_until) > now() - interval '1 hour', false) AS recent,
       s.delivered, s.dead, s.handed_over, s.per_second
  FROM outbox.streams AS s
 WHERE ($1::text = '' OR s.destination = $1::text) AND (s.above IS NOT NULL OR s.started_at IS NOT NULL)
 ORDER BY s.destination`

// Streams returns the destinations that have a bound of their own, or have or had a stream.
func (o *Operator) Streams(ctx context.Context) ([]Stream, error) { return o.streams(ctx, "") }

func (o *Operator) streams(ctx context.Context, destination string) ([]Stream, error) {
	rows, err := o.pool.Query(ctx, streamsSQL, destination)
	if err != nil {
		return nil, fmt.Errorf("reading the streams: %w", err)
	}
	streams, err := pgx.CollectRows(rows, pgx.RowToStructByName[Stream])
	if err != nil {
		return nil, fmt.Errorf("reading the streams: %w", err)
	}
	for i := range streams {
		streams[i].WorkflowID = workflows.StreamID(o.outbox, streams[i].Destination)
	}
	return streams, nil
}

// A change of what an operator set for streams is one statement with its audit entry, for $2 who says
// why ($3). streamColumns, an act and its detail are what the audit notes.
const streamColumns = `
 RETURNING NULL::uuid AS id, c.destination, NULL::integer AS generation, `

// setStreamSQL sets the bound ($4) of a destination ($1).
const setStreamSQL = `
WITH was AS MATERIALIZED (
    SELECT s.above FROM outbox.streams AS s WHERE s.destination = $1::text
), changed AS (
    INSERT INTO outbox.streams AS c (destination, above) VALUES ($1::text, $4::int)
        ON CONFLICT (destination) DO UPDATE SET above = excluded.above` + streamColumns + `
           'set-stream' AS act, pg_catalog.jsonb_build_object(
               'above', c.above, 'was', (SELECT w.above FROM was AS w)) AS detail` + outboxdb.AuditActSQL + `
SELECT (SELECT w.above FROM was AS w)`

// unsetStreamSQL takes the bound of a destination away. What is known of its streams stays.
const unsetStreamSQL = `
WITH was AS MATERIALIZED (
    SELECT s.destination, s.above FROM outbox.streams AS s
     WHERE s.destination = $1::text AND s.above IS NOT NULL FOR UPDATE
), changed AS (
    UPDATE outbox.streams AS c SET above = NULL FROM was AS w WHERE c.destination = w.destination` + streamColumns + `
           'unset-stream' AS act, pg_catalog.jsonb_build_object('was', w.above) AS detail` + outboxdb.AuditActSQL + `
SELECT count(*) > 0 FROM changed`

// noteStartSQL is the audit entry of a start that Temporal has accepted.
const noteStartSQL = `
INSERT INTO outbox.audit (act, destination, who, why, detail)
VALUES ('start-stream', outbox.display_destination($1), $2, $3, pg_catalog.jsonb_build_object('run', $4::text))`

// noteStopSQL is the audit entry of a stop: of the run $4 that Temporal has accepted to cancel, or where
// none is open (NULL) of a stream that is noted as paused. Nothing of a paused stream goes on to note its
// end. It returns whether there was a stream to stop.
const noteStopSQL = `
WITH unpaused AS (
    UPDATE outbox.streams AS s
       SET paused = false, ended = 'cancelled', ended_at = now(), not_before = now() + interval '1 minute'
     WHERE s.destination = $1::text AND s.paused
    RETURNING s.destination
), changed AS (
    SELECT 'stop-stream' AS act, NULL::uuid AS id, $1::text AS destination, NULL::integer AS generation,
           pg_catalog.jsonb_build_object('run', $4::text) AS detail
     WHERE $4::text IS NOT NULL OR EXISTS (SELECT FROM unpaused)` + outboxdb.AuditActSQL + `
SELECT count(*) > 0 FROM changed`

// SetStream has starters begin a stream for a destination, in canonical form, above so many due
// messages; 0: never. It returns the bound that it replaces, or nil. A destination that has no streams
// is an InvalidRuleError.
func (o *Operator) SetStream(ctx context.Context, destination string, above int, by Actor) (was *int, err error) {
	if err = checkTakesStreams(destination); err == nil {
		err = o.pool.QueryRow(ctx, setStreamSQL, destination, by.Who, by.Why, above).Scan(&was)
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.ConstraintName == "streams_destination" {
		err = &InvalidRuleError{"destination", wantsRuleDestination}
	}
	if err != nil {
		return nil, fmt.Errorf("setting the bound of a stream: %w", err)
	}
	return was, nil
}

// UnsetStream has the starters' own setting apply to a destination again. found is false where it had no
// bound.
func (o *Operator) UnsetStream(ctx context.Context, destination string, by Actor) (found bool, err error) {
	if !text.Storable(destination) {
		return false, nil
	}
	if err := o.pool.QueryRow(ctx, unsetStreamSQL, destination, by.Who, by.Why).Scan(&found); err != nil {
		return false, fmt.Errorf("unsetting the bound of a stream: %w", err)
	}
	return found, nil
}

// checkTakesStreams refuses destinations that have no streams.
func checkTakesStreams(destination string) error {
	if err := checkRule(ruleField{"destination", destination}); err != nil {
		return err
	}
	if why := outbox.WhyNoStream(destination); why != "" {
		return &InvalidRuleError{"destination", why}
	}
	return nil
}

// StartedStream says how a start went.
type StartedStream struct {
	Destination string `json:"destination"`
	WorkflowID  string `json:"workflowId"`
	// RunID is that of the new run. It is empty where a run was open before.
	RunID string `json:"runId,omitempty"`
	// State is "running" once a worker has it, "paused", or "silent": no worker goes on with it yet.
	State string `json:"state"`
}

const (
	// takeWait is how long StartStream waits for the end of a run that closes, and for a worker, which
	// notes a stream's beginning at once.
	takeWait = 5 * time.Second
	takeLook = 100 * time.Millisecond
)

// errNoAudit says that this role can't write the audit. What Temporal is asked to do is noted there
// afterwards.
var errNoAudit = errors.New("this role may not write outbox.audit (" + seeGrants + ")")

// mayAct refuses a role that could not note what it has Temporal do.
func (o *Operator) mayAct(ctx context.Context) error {
	var may bool
	if err := o.pool.QueryRow(ctx, `SELECT has_any_column_privilege('outbox.audit', 'INSERT')`).Scan(&may); err != nil {
		return fmt.Errorf("reading this role's rights: %w", err)
	}
	if !may {
		return errNoAudit
	}
	return nil
}

// ErrNoDatabaseID says that no starter or worker has worked on the database: a run would not know it.
var ErrNoDatabaseID = errors.New("no starter or worker has worked on this database yet")

// StartStream starts the stream of a destination, on the task queue that goes with that of the outbox's
// other runs, and waits some seconds for a worker to take it. Where a run is open it starts none.
func (o *Operator) StartStream(
	ctx context.Context, destination, taskQueue string, by Actor,
) (started StartedStream, err error) {
	started = StartedStream{Destination: destination, WorkflowID: workflows.StreamID(o.outbox, destination)}
	if err = checkTakesStreams(destination); err == nil {
		err = o.mayAct(ctx)
	}
	var before Stream
	if err == nil {
		before, err = o.stream(ctx, destination)
	}
	in := workflows.StreamInput{Outbox: o.outbox, Destination: destination}
	if err == nil {
		in.Database, err = o.databaseID(ctx)
	}
	if err == nil && in.Database == uuid.Nil {
		err = ErrNoDatabaseID
	}
	if err == nil {
		started.RunID, err = o.startStream(ctx, workflows.StreamOptions(o.outbox, taskQueue, destination), in, before)
	}
	if errors.Is(err, ErrRunOpen) {
		var now Stream
		if now, err = o.stream(ctx, destination); err == nil {
			if started.State = StreamSilent; now.Open() {
				started.State = now.State
			}
			return started, nil
		}
	}
	if err == nil {
		_, err = o.pool.Exec(ctx, noteStartSQL, destination, by.Who, by.Why, started.RunID)
	}
	if err == nil {
		started.State, err = o.awaitStream(ctx, destination, before)
	}
	if err != nil {
		return started, fmt.Errorf("starting a stream: %w", err)
	}
	return started, nil
}

// startStream starts the run. One that has noted its end, or was asked to cancel, closes within seconds.
func (o *Operator) startStream(
	ctx context.Context, options client.StartWorkflowOptions, in workflows.StreamInput, before Stream,
) (runID string, err error) {
	closes := before.Ended()
	for deadline := time.Now().Add(takeWait); ; {
		runID, err = o.runs.StartStream(ctx, options, in)
		if errors.Is(err, ErrRunOpen) && !closes {
			open, lookErr := o.runs.Describe(ctx, options.ID)
			closes = lookErr == nil && (open.Cancelling || open.ClosedAt != nil)
		}
		if !errors.Is(err, ErrRunOpen) || !closes || !time.Now().Before(deadline) {
			return runID, err
		}
		select {
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case <-time.After(takeLook):
		}
	}
}

// stream is that of one destination; its State is StreamNone where there is none.
func (o *Operator) stream(ctx context.Context, destination string) (Stream, error) {
	streams, err := o.streams(ctx, destination)
	if err != nil || len(streams) == 0 {
		return Stream{Destination: destination, State: StreamNone}, err
	}
	return streams[0], nil
}

// awaitStream waits until a worker has noted that a stream began after the one before.
func (o *Operator) awaitStream(ctx context.Context, destination string, before Stream) (state string, err error) {
	for deadline := time.Now().Add(takeWait); ; {
		now, err := o.stream(ctx, destination)
		if err != nil {
			return "", err
		}
		if now.StartedAt != nil && (before.StartedAt == nil || now.StartedAt.After(*before.StartedAt)) {
			return StreamRuns, nil
		}
		if !time.Now().Before(deadline) {
			return StreamSilent, nil
		}
		select {
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case <-time.After(takeLook):
		}
	}
}

// StopStream asks the run of a destination's stream to end. Requests under way are waited for, and what
// was not sent is given back: starters deliver it. Where no run is open the error is ErrNoRun, unless the
// stream was noted as paused, which is over then.
func (o *Operator) StopStream(ctx context.Context, destination string, by Actor) error {
	id := workflows.StreamID(o.outbox, destination)
	if err := o.mayAct(ctx); err != nil {
		return fmt.Errorf("stopping the stream of %s: %w", outflow.DisplayDestination(destination), err)
	}
	run, err := o.runs.Describe(ctx, id)
	var open *string
	if err == nil && run.ClosedAt == nil {
		if err = o.runs.Cancel(ctx, id); err == nil {
			open = &run.RunID
		}
	}
	stopped := false
	if err == nil || errors.Is(err, ErrNoRun) {
		err = o.pool.QueryRow(ctx, noteStopSQL, destination, by.Who, by.Why, open).Scan(&stopped)
	}
	if err == nil && !stopped {
		err = ErrNoRun
	}
	if err != nil {
		return fmt.Errorf("stopping the stream of %s: %w", outflow.DisplayDestination(destination), err)
	}
	return nil
}
