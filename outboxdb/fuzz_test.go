package outboxdb_test

import (
	"context"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb"
)

// FuzzDestination: a destination that SQL stores, Go reads and writes back as it
// is; one that Go refuses, SQL refuses too.
func FuzzDestination(f *testing.F) {
	pool := teststack.New(f)
	for _, p := range pasted {
		f.Add(p.given)
	}
	for _, in := range badInputs {
		if in.field == "destination" && !in.goOnly {
			bad := message("sqs://orders")
			in.change(&bad)
			f.Add(bad.Destination)
		}
	}
	f.Fuzz(func(t *testing.T, given string) {
		if !utf8.ValidString(given) || strings.ContainsRune(given, 0) {
			t.Skip("no text of Postgres")
		}
		d, refused := outflow.ParseDestination(given)
		var stored, reason string
		var accepted, asGiven bool
		require.NoError(t, pool.QueryRow(t.Context(), `
			SELECT c, outbox.is_destination(c), outbox.is_destination($1), coalesce(outbox.destination_refusal(c), '')
			  FROM outbox.canonical_destination($1) AS c`, given).Scan(&stored, &accepted, &asGiven, &reason))
		if !accepted {
			require.False(t, asGiven, "pasting makes a good destination bad")
			if !strings.HasPrefix(given, "rabbitmq:") {
				require.ErrorContains(t, refused, "an ARN: "+reason+" (got ", "SQL refuses it as %q", stored)
			}
			return
		}
		require.NoError(t, refused, "SQL stores it as %q", stored)
		require.Equal(t, stored, d.String())
		if asGiven {
			require.Equal(t, given, stored, "a stored destination would be stored again as another")
		}
	})
}

var (
	fuzzName  = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)
	fuzzTaken = regexp.MustCompile(`(?i)^(outflow|aws\.|amazon\.|content-type$)`)
)

// allowed are the rules of headers as outflow.Message documents them.
func allowed(headers map[string]string) bool {
	lower := map[string]bool{}
	for name, value := range headers {
		if !utf8.ValidString(name) || !utf8.ValidString(value) || strings.ContainsRune(name+value, 0) {
			return false
		}
		if len(name) > 128 || !fuzzName.MatchString(name) || fuzzTaken.MatchString(name) || len(value) > 8192 {
			return false
		}
		lower[strings.ToLower(name)] = true
	}
	return len(lower) == len(headers) && len(headers) <= 64
}

// FuzzHeaders: whatever the headers, Enqueue either refuses them, in words about
// the headers and with the transaction going on, or stores them byte for byte;
// which of both is what the documented rules say, in Go and in SQL.
func FuzzHeaders(f *testing.F) {
	pool := teststack.New(f)
	for _, in := range badInputs {
		if in.field == "headers" {
			bad := message("sqs://orders")
			in.change(&bad)
			for name, value := range bad.Headers {
				f.Add(name, value, "tenant", "acme", uint8(0))
			}
		}
	}
	f.Add("a", `"quoted" \ & <tag>`, "A", "\u2028\U0001F600", uint8(62))
	f.Add("a", "", "b", "\n", uint8(63))
	f.Fuzz(func(t *testing.T, one, first, two, second string, more uint8) {
		m := message("sqs://orders")
		m.Headers = headers(int(more % 70))
		m.Headers[one], m.Headers[two] = first, second
		tx, err := pool.Begin(t.Context())
		require.NoError(t, err)
		defer func() { _ = tx.Rollback(context.Background()) }()
		ids, err := outboxdb.Enqueue(t.Context(), tx, m)
		if !allowed(m.Headers) {
			var refused *outflow.InvalidMessageError
			require.ErrorAs(t, err, &refused)
			require.Equal(t, "headers", refused.Field)
			require.Less(t, len(err.Error()), 1000, "it repeats a part only")
			require.True(t, utf8.ValidString(err.Error()) && !strings.ContainsRune(err.Error(), 0),
				"it can be logged and stored: %q", err)
			_, err = tx.Exec(t.Context(), `SELECT 1`)
			require.NoError(t, err, "the transaction goes on")
			return
		}
		require.NoError(t, err)
		var stored map[string]string
		require.NoError(t, tx.QueryRow(t.Context(), `SELECT headers FROM outbox.messages WHERE id = $1`,
			ids[0]).Scan(&stored))
		require.Equal(t, m.Headers, stored)
		// Straight to the SQL function, as another language does.
		_, err = tx.Exec(t.Context(), `SELECT outbox.enqueue('sqs://orders', 'a', 'x', headers => $1)`, stored)
		require.NoError(t, err)
	})
}
