package teststack

import (
	"os"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
)

// RunExample runs an Example that opens the database in DATABASE_URL, which is pool's here,
// and returns what it prints. Such an Example has no "// Output:" comment: go test would
// run it where there is no database.
func RunExample(t *testing.T, pool *pgxpool.Pool, example func()) (printed string) {
	t.Helper()
	t.Setenv("DATABASE_URL", pool.Config().ConnString())
	file, err := os.CreateTemp(t.TempDir(), "stdout")
	require.NoError(t, err)
	defer file.Close()
	stdout := os.Stdout
	defer func() { os.Stdout = stdout }()
	os.Stdout = file
	example()
	text, err := os.ReadFile(file.Name())
	require.NoError(t, err)
	return string(text)
}
