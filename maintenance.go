package outflow

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Keep is how long final rows stay in the table; zero is for ever, so that what
// nobody has set deletes nothing. As text, in settings and in Temporal, it is
// "forever", a number of days such as "30d", or a duration such as "36h".
type Keep time.Duration

// The bounds of a Keep that is not for ever. A row is kept at least so long that
// the end of its run can still read it.
const (
	Forever   Keep = 0
	LeastKeep      = Keep(time.Minute)
	MostKeep       = 3650 * day
)

const day = Keep(24 * time.Hour)

// ParseKeep reads the text of a Keep. The error says what it wants.
func ParseKeep(text string) (Keep, error) {
	if text == "forever" {
		return Forever, nil
	}
	var k Keep
	number, isDays := strings.CutSuffix(text, "d")
	days, err := strconv.Atoi(number)
	switch {
	case isDays && err == nil && days >= 1 && days <= int(MostKeep/day):
		k = Keep(days) * day
	case !isDays:
		d, _ := time.ParseDuration(text) // zero where it is none, which is too short
		k = Keep(d)
	}
	if k < LeastKeep || k > MostKeep {
		return 0, errors.New(`wants "forever", or a time from 1m to 3650d, such as 36h or 30d`)
	}
	return k, nil
}

func (k Keep) String() string {
	switch {
	case k == Forever:
		return "forever"
	case k%day == 0:
		return fmt.Sprintf("%dd", k/day)
	}
	return time.Duration(k).String()
}

// MarshalText returns what UnmarshalText reads.
func (k Keep) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads the text as ParseKeep does.
func (k *Keep) UnmarshalText(text []byte) (err error) {
	*k, err = ParseKeep(string(text))
	return err
}

// Retention says how long final rows stay in outbox.messages, by their state.
type Retention struct {
	Delivered Keep `json:"delivered"`
	// Dead is for all dead rows. A dismissed one goes after Cancelled too, counted
	// from its dismissal: somebody has decided that it is not sent.
	Dead      Keep `json:"dead"`
	Expired   Keep `json:"expired"`
	Cancelled Keep `json:"cancelled"`
	// History moves rows to outbox.history instead of deleting them.
	History bool `json:"history"`
}

// DefaultRetention keeps what was delivered for a week, what expired or was
// cancelled for a month, and what is dead until somebody has looked at it.
func DefaultRetention() Retention {
	return Retention{Delivered: 7 * day, Dead: Forever, Expired: 30 * day, Cancelled: 30 * day}
}

// Purge asks for one chunk of final rows to be deleted.
type Purge struct {
	// State is one of the four final states.
	State State
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
	// as far as the server tells it.
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
	// Seconds is its age; -1 where the server does not tell it.
	Seconds int64 `json:"seconds"`
	// Transactions were begun since it was taken.
	Transactions int64 `json:"transactions"`
}

// unknownAge is how many transactions make a snapshot of unknown age an old one.
const unknownAge = 1_000_000

// HeldFor reports whether the snapshot has been held for that long; one whose age
// the server does not tell, whether a million transactions were begun since.
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
	return fmt.Sprintf("%s has held a snapshot %s, %d transactions: vacuum can't remove rows that died since, and claims slow down", who, age, h.Transactions)
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
