package outflow

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Keep is how long final rows stay in the table; zero is forever, so that an unset period deletes
// nothing. As text, in settings and in Temporal, it is "forever", a number of days such
// as "30d", or a duration such as "36h".
type Keep time.Duration

// The bounds of a Keep that is not Forever. A row stays at least so long that the end of its run
// can still read it.
const (
	Forever Keep = 0
	MinKeep      = Keep(time.Minute)
	MaxKeep      = 3650 * day
)

const day = Keep(24 * time.Hour)

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

// UnmarshalText reads the text of a Keep. The error says what it wants.
func (k *Keep) UnmarshalText(text []byte) error {
	s := string(text)
	if s == "forever" {
		*k = Forever
		return nil
	}
	var parsed Keep
	number, isDays := strings.CutSuffix(s, "d")
	days, err := strconv.Atoi(number)
	switch {
	case isDays && err == nil && days >= 1 && days <= int(MaxKeep/day):
		parsed = Keep(days) * day
	case !isDays:
		d, _ := time.ParseDuration(s) // zero where there is none, which is too short
		parsed = Keep(d)
	}
	if parsed < MinKeep || parsed > MaxKeep {
		return errors.New(`wants "forever", or a time from 1m to 3650d, such as 36h or 30d`)
	}
	*k = parsed
	return nil
}

// Retention says how long final rows stay in outbox.messages, by their state.
type Retention struct {
	Delivered Keep `json:"delivered"`
	// Dead is for all dead rows. A dismissed row goes after Cancelled too, counted from its
	// dismissal: an operator has decided that it is not sent.
	Dead      Keep `json:"dead"`
	Expired   Keep `json:"expired"`
	Cancelled Keep `json:"cancelled"`
	// History moves rows to outbox.history instead of deleting them.
	History bool `json:"history"`
}

// DefaultRetention keeps delivered rows for a week, expired and cancelled rows for 30 days, and
// dead rows until an operator has decided about them.
func DefaultRetention() Retention {
	return Retention{Delivered: 7 * day, Dead: Forever, Expired: 30 * day, Cancelled: 30 * day}
}
