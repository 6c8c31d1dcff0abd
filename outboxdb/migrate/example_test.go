package migrate_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb/migrate"
)

// Up brings the schema up to date. Every process may call it at its start: one at a time
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
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, m := range applied {
		fmt.Println("applied", m.Name)
	}
	all, err := migrate.Status(ctx, pool)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("new:", len(applied), "of", len(all))
}

func TestExample(t *testing.T) {
	pool := teststack.NewEmpty(t)
	printed := teststack.RunExample(t, pool, Example)
	all, err := migrate.Status(t.Context(), pool)
	require.NoError(t, err)
	var lines strings.Builder
	for _, m := range all {
		fmt.Fprintln(&lines, "applied", m.Name)
	}
	require.Equal(t, fmt.Sprintf("%snew: %d of %[2]d\n", &lines, len(all)), printed)
	require.Equal(t, fmt.Sprintf("new: 0 of %d\n", len(all)), teststack.RunExample(t, pool, Example))
}
