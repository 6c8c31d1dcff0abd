package outboxtest_test

import (
	"database/sql"
	"net"
	"net/url"
	"strconv"
	"testing"

	_ "github.com/lib/pq"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/outboxdb/migrate"
	"github.com/outflowhq/outflow/outboxdb/outboxtest"
	"github.com/outflowhq/outflow/outboxdb/wait"
)

// TestAShopWithDatabaseSQL migrates, enqueues, asserts, delivers and waits with
// only database/sql, and a driver that is not pgx.
func TestAShopWithDatabaseSQL(t *testing.T) {
	t.Parallel()
	c := teststack.NewEmpty(t).Config().ConnConfig
	at := url.URL{Scheme: "postgres", User: url.UserPassword(c.User, c.Password), Path: "/" + c.Database,
		RawQuery: "sslmode=disable",
		Host:     net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port)))}
	db, err := sql.Open("postgres", at.String())
	require.NoError(t, err)
	defer db.Close()
	_, err = migrate.UpSQL(t.Context(), db)
	require.NoError(t, err)

	tx, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	m, err := outflow.JSON("sqs://orders", "order-placed", 7)
	require.NoError(t, err)
	ids, err := outboxdb.EnqueueSQL(t.Context(), tx, m)
	require.NoError(t, err)
	outboxtest.RequireEnqueuedSQL(t, tx, m)
	require.NoError(t, tx.Commit())

	delivered := outboxtest.DeliverURL(t, at.String(), nil)
	require.Len(t, delivered, 1)
	waiter := wait.NewSQL(db)
	defer waiter.Close()
	outcome, err := waiter.Wait(t.Context(), ids[0])
	require.NoError(t, err)
	require.Equal(t, outflow.Delivered, outcome.State)
}
