// Package retryafter reads the header Retry-After of HTTP answers.
//
// The invariant: a wait is counted by the server's clock alone, and sums with it never overflow.
package retryafter

import (
	"errors"
	"net/http"
	"strconv"
	"time"
)

// longest is far more than anybody waits: see outflow.Failure.
const longest = 24 * time.Hour

// From returns the wait that an answer asked for: seconds or a date, which is counted from the
// answer's own Date (RFC 9110, section 10.2.3). It is zero where there is none that can be read.
func From(header http.Header) time.Duration {
	value := header.Get("Retry-After")
	seconds, err := strconv.ParseUint(value, 10, 64)
	if err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(min(seconds, uint64(longest/time.Second))) * time.Second
	}
	until, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	now, err := http.ParseTime(header.Get("Date"))
	if err != nil {
		return 0
	}
	return min(max(until.Sub(now), 0), longest)
}
