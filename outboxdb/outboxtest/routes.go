package outboxtest

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
)

// SetRoutes gives a message type these routes and no others, for messages that are enqueued
// with outflow.ByRoute. If q is a transaction, they are for that transaction, and go with it
// when it is rolled back. outflow.RouteToNowhere is a route too; without destinations the type
// has none.
func SetRoutes(t testing.TB, q Querier, messageType string, destinations ...string) {
	t.Helper()
	requireSet(t, q.QueryRow(t.Context(), setRoutesSQL, messageType, encodeRoutes(t, destinations)))
}

// SetRoutesSQL is SetRoutes with database/sql.
func SetRoutesSQL(t testing.TB, q SQLQuerier, messageType string, destinations ...string) {
	t.Helper()
	requireSet(t, q.QueryRowContext(t.Context(), setRoutesSQL, messageType, encodeRoutes(t, destinations)))
}

// setRoutesSQL has the destinations as one text, which every driver and protocol can send.
const setRoutesSQL = `
WITH wanted AS MATERIALIZED (
    SELECT d AS destination FROM jsonb_array_elements_text($2::text::jsonb) AS d
), gone AS (
    DELETE FROM outbox.routes AS r
     WHERE r.type = $1::text AND NOT EXISTS (SELECT FROM wanted AS w WHERE w.destination = r.destination)
), made AS (
    INSERT INTO outbox.routes AS r (destination, type) SELECT w.destination, $1::text FROM wanted AS w
        ON CONFLICT (destination, type) DO NOTHING
)
SELECT count(*) FROM wanted`

func encodeRoutes(t testing.TB, destinations []string) string {
	t.Helper()
	canonicals := make([]string, 0, len(destinations))
	for _, d := range destinations {
		canonicals = append(canonicals, canonical(d))
	}
	encoded, err := json.Marshal(canonicals)
	if err != nil {
		t.Fatal(fmt.Errorf("outboxtest: %w", err))
	}
	return string(encoded)
}

func requireSet(t testing.TB, answer interface{ Scan(...any) error }) {
	t.Helper()
	var n int
	if err := answer.Scan(&n); err != nil {
		t.Fatal(fmt.Errorf("outboxtest: setting routes: %w", err))
	}
}

// byGroup makes one message of each group: its first, under the group's ID.
func byGroup(rows []row) (all []row) {
	seen := map[uuid.UUID]bool{}
	for _, r := range rows {
		if r.GroupID == uuid.Nil {
			all = append(all, r)
			continue
		}
		if !seen[r.GroupID] {
			seen[r.GroupID] = true
			r.ID, r.Destination = r.GroupID, outflow.ByRoute
			all = append(all, r)
		}
	}
	return all
}
