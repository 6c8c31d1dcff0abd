package migrate_test

import (
	"io/fs"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/outboxdb/migrations"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// names are those of all migrations, in order.
var names = func() (names []string) {
	files, err := fs.Glob(migrations.Files, "*.up.sql")
	if err != nil {
		panic(err)
	}
	for _, file := range files {
		names = append(names, strings.TrimSuffix(file, ".up.sql"))
	}
	return names
}()

// enqueue commits a message.
func enqueue(t testing.TB, pool *pgxpool.Pool) uuid.UUID {
	t.Helper()
	var ids []uuid.UUID
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) (err error) {
		ids, err = outboxdb.Enqueue(t.Context(), tx,
			outflow.Message{Destination: "sqs://orders", Type: "a", Payload: []byte("{}")})
		return err
	})
	require.NoError(t, err)
	return ids[0]
}
