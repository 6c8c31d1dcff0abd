package retryafter

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestFrom(t *testing.T) {
	const date = "Fri, 31 Dec 1999 23:59:50 GMT"
	for value, want := range map[string]time.Duration{
		"": 0, "soon": 0, "-1": 0, "0": 0, "7": 7 * time.Second,
		"99999999999999999999999":       longest,
		"90000000":                      longest,
		"Fri, 31 Dec 1999 23:59:59 GMT": 9 * time.Second,
		"Fri, 31 Dec 1999 23:00:00 GMT": 0,
		"Fri, 31 Dec 2099 23:59:59 GMT": longest,
	} {
		require.Equal(t, want, From(http.Header{"Retry-After": {value}, "Date": {date}}), value)
	}
	require.Zero(t, From(http.Header{"Retry-After": {date}}), "no date to count from")
}
