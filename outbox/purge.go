package outbox

import (
	"fmt"
	"time"

	"github.com/outflowhq/outflow"
)

// Purge asks for one chunk of final rows to be deleted.
type Purge struct {
	// State is one of the four final states.
	State outflow.State
	// Dismissed takes dismissed messages alone, counted from their dismissal; then
	// State is Dead.
	Dismissed bool
	// OlderThan is the least time since the row became final, or was dismissed.
	OlderThan time.Duration
	// After is where an earlier chunk stopped; zero begins with the oldest row.
	After time.Time
	// Limit is how many rows it may be, 1 or more.
	Limit int
	// History moves the rows to outbox.history.
	History bool
}

// Purged is what became of a Purge.
type Purged struct {
	// Rows were deleted; fewer than the limit where no more are old enough.
	Rows int
	// UpTo is where the next chunk goes on.
	UpTo time.Time
}

// TableHealth is what decides whether outbox.messages stays fast. The rows are
// the server's own estimates.
type TableHealth struct {
	LiveRows   int64 `json:"liveRows"`
	DeadRows   int64 `json:"deadRows"`
	TableBytes int64 `json:"tableBytes"`
	IndexBytes int64 `json:"indexBytes"`
	// LastVacuum and LastAutovacuum are zero where there was none.
	LastVacuum     time.Time `json:"lastVacuum,omitzero"`
	LastAutovacuum time.Time `json:"lastAutovacuum,omitzero"`
	// OldestSnapshotSeconds is the age of the oldest snapshot that anybody holds,
	// as far as the server shows it.
	OldestSnapshotSeconds int64 `json:"oldestSnapshotSeconds"`
	// Held are the snapshots that were held too long, those that hold back the
	// most first; ten at most.
	Held []HeldSnapshot `json:"held,omitempty"`
}

// HeldSnapshot keeps vacuum from removing rows that died since it was taken.
type HeldSnapshot struct {
	// Holder is "session", "prepared transaction" or "replication slot", Name its
	// application name, global ID or slot name.
	Holder string `json:"holder"`
	Name   string `json:"name"`
	PID    int32  `json:"pid,omitempty"`
	User   string `json:"user,omitempty"`
	// State is the session's, such as "idle in transaction"; empty where the
	// server does not show it.
	State string `json:"state,omitempty"`
	// Seconds is its age; -1 where the server does not show it.
	Seconds int64 `json:"seconds"`
	// Transactions were begun since it was taken.
	Transactions int64 `json:"transactions"`
}

// unknownAge is how many transactions make a snapshot of unknown age an old one.
const unknownAge = 1_000_000

// HeldFor reports whether the snapshot has been held for that long; one whose age
// the server does not show, whether a million transactions were begun since.
func (h HeldSnapshot) HeldFor(d time.Duration) bool {
	if h.Seconds < 0 {
		return h.Transactions >= unknownAge
	}
	return h.Seconds >= int64(d/time.Second)
}

// Advice says who holds the snapshot, what that does and what to do, in one line.
func (h HeldSnapshot) Advice() string { return h.String() + "; " + h.Remedy() }

// String says who holds the snapshot, and what that does.
func (h HeldSnapshot) String() string {
	age := "for an unknown time"
	if h.Seconds >= 0 {
		age = "for " + (time.Duration(h.Seconds) * time.Second).String()
	}
	who := fmt.Sprintf("%s %q", h.Holder, h.Name)
	if h.Holder == "session" {
		who = fmt.Sprintf("session %d of application %q, user %q", h.PID, h.Name, h.User)
	}
	if h.Holder == "session" && h.State != "" {
		who += " (" + h.State + ")"
	}
	return fmt.Sprintf("%s has held a snapshot %s, %d transactions: "+
		"vacuum can't remove rows that died since, and claims slow down", who, age, h.Transactions)
}

// Remedy says what to do about it.
func (h HeldSnapshot) Remedy() string {
	switch h.Holder {
	case "session":
		return fmt.Sprintf("end its transaction, or SELECT pg_terminate_backend(%d)", h.PID)
	case "prepared transaction":
		return "COMMIT PREPARED or ROLLBACK PREPARED it"
	default:
		return "let its consumer catch up, or drop it with pg_drop_replication_slot"
	}
}
