package outboxdb_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb"
)

// A message takes a share of its path and of its host, so that what is open to one path
// takes room from the others of the host, and from no other host.
func TestAMessageTakesAShareOfItsHost(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	reach(t, store, hook(1), hook(2))
	enqueue(t, pool, message(hook(1)), message(hook(2)), message(hook(3)), message("https://example.com/x"))
	for _, m := range claim(t, store, request()).Messages {
		switch m.Destination {
		case hook(1), hook(2):
			require.Equal(t, []string{m.Destination, "https://example.org"}, m.Shares)
			require.False(t, m.NewDestination)
		case hook(3):
			require.Equal(t, []string{hook(3), "https://example.org#new", "https://example.org"}, m.Shares)
			require.True(t, m.NewDestination)
		}
	}

	enqueue(t, pool, message(hook(1)), message(hook(2)), message("https://example.com/x"))
	req := request()
	req.Allowance, req.Open = 5, map[string]int{"https://example.org": 5}
	require.Equal(t, map[string]int{"https://example.com/x": 1}, byDestination(claim(t, store, req)))
	req.Open["https://example.org"] = 4
	require.Len(t, claim(t, store, req).Messages, 1, "of the two paths")
	req.Open["https://example.org"] = 4
	require.Len(t, claim(t, store, req).Messages, 1)
	require.Empty(t, claim(t, store, request()).Messages)
}
