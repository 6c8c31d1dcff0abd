package migrate_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/inbox/migrate"
	"github.com/outflowhq/outflow/internal/teststack"
)

// Up brings the schema up to date. Every consumer may call it at its start: one at a time
// migrates, and the others find nothing left to do.
func Example() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()

	applied, err := migrate.Up(ctx, pool)
	fmt.Println("applied:", applied, err)
}

func TestExample(t *testing.T) {
	pool := teststack.NewEmpty(t)
	require.Equal(t, "applied: [0001_seen] <nil>\n", teststack.RunExample(t, pool, Example))
	require.Equal(t, "applied: [] <nil>\n", teststack.RunExample(t, pool, Example))
}
