package outboxdb_test

import (
	"errors"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outflowhq/outflow/operator"
)

// findings are what "outflow doctor" says of a database alone, by check and level.
func findings(t *testing.T, pool *pgxpool.Pool) map[string]operator.Finding {
	t.Helper()
	found := map[string]operator.Finding{}
	operator.Examine(t.Context(), operator.Subject{
		Operator: operator.New(pool, nil, ""), NamespaceErr: errors.New("there is no Temporal here"),
	}, func(f operator.Finding) { found[f.Check+" "+string(f.Level)] = f })
	return found
}
