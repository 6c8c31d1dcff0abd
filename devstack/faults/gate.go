package faults

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// gate is a step in the life of a shot's messages at which the database can keep
// whoever takes it waiting.
type gate int

const (
	gateMark  gate = 1 + iota // the broker has acknowledged, the row is being marked
	gateBegin                 // the callback's run is about to send
	gateNote                  // the receiver has answered, its row is being updated
)

// buildGates puts triggers on the table that take a shared lock, named by gate and
// shot, in the transaction that makes the step. Nobody waits for it but where the
// gate is closed.
const buildGates = `
CREATE SCHEMA faults;
CREATE FUNCTION faults.gate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(TG_ARGV[0]::int, substr(NEW.type, 6)::int);
    RETURN NEW;
END $$;
CREATE TRIGGER gate_mark BEFORE UPDATE ON outbox.messages FOR EACH ROW
    WHEN (NEW.type LIKE 'shot-%' AND OLD.state = 'pending' AND NEW.state = 'delivered') EXECUTE FUNCTION faults.gate(1);
CREATE TRIGGER gate_begin BEFORE UPDATE ON outbox.messages FOR EACH ROW
    WHEN (NEW.type LIKE 'shot-%' AND NEW.callback_attempts > OLD.callback_attempts) EXECUTE FUNCTION faults.gate(2);
CREATE TRIGGER gate_note BEFORE UPDATE ON outbox.messages FOR EACH ROW
    WHEN (NEW.type LIKE 'shot-%' AND OLD.callback_state = 'due' AND NEW.callback_state = 'sent') EXECUTE FUNCTION faults.gate(3)`

// atGate names the agents whose statements wait at a gate, once for each.
const atGate = `
SELECT a.application_name
  FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
 WHERE l.locktype = 'advisory' AND NOT l.granted AND l.classid = $1 AND l.objid = $2 AND l.objsubid = 2
   AND a.datname = current_database()`

// endStatements ends what a dead agent's statements go on doing: a statement that
// waits at a gate would pass it later, since Postgres does not notice that nobody
// waits for its answer.
const endStatements = `
SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE application_name = $1 AND datname = current_database()`

// closedGate is closed for one shot until open.
type closedGate struct {
	conn *pgx.Conn
	gate gate
	shot int
}

func (w *World) closeGate(ctx context.Context, g gate, shot int) (*closedGate, error) {
	conn, err := pgx.Connect(ctx, w.URL)
	if err != nil {
		return nil, fmt.Errorf("closing a gate: %w", err)
	}
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock($1, $2)", int(g), shot); err != nil {
		return nil, fmt.Errorf("closing a gate: %w", err)
	}
	return &closedGate{conn, g, shot}, nil
}

// waiting counts the statements that wait at the gate, by agent.
func (g *closedGate) waiting(ctx context.Context) (map[string]int, error) {
	rows, err := g.conn.Query(ctx, atGate, int(g.gate), g.shot)
	if err != nil {
		return nil, fmt.Errorf("looking who waits at a gate: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("looking who waits at a gate: %w", err)
	}
	counts := map[string]int{}
	for _, name := range names {
		counts[name]++
	}
	return counts, nil
}

// open lets everybody pass. The end of its connection opens a gate, too.
func (g *closedGate) open() { _ = g.conn.Close(context.Background()) }
