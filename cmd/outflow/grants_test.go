package main

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/program"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/operator"
)

func TestGrantsUsage(t *testing.T) {
	for _, c := range []struct {
		args  []string
		wants string
	}{
		{nil, "wants -producer, -dispatcher or -operator with a role"},
		{[]string{"-apply"}, "wants -producer, -dispatcher or -operator with a role"},
		{[]string{"-producer"}, "flag needs an argument: -producer"},
		{[]string{"-producer", ""}, `invalid value "" for flag -producer: wants a role's name`},
		{[]string{"-producer", "shop", "web"}, `unexpected argument "web"`},
		{[]string{"-consumer", "shop"}, "-consumer"},
		{[]string{"-apply=perhaps", "-producer", "shop"}, "perhaps"},
	} {
		out, err := call(nowhere, append([]string{"grants"}, c.args...)...)
		var usage program.UsageError
		require.ErrorAs(t, err, &usage, "%v", c.args)
		assert.ErrorContains(t, err, c.wants)
		assert.Empty(t, out)
	}
	out, err := call(nowhere, "grants", "-help")
	require.NoError(t, err)
	assert.Equal(t, grantsUsage, out)
	_, err = call(nowhere, "grants", "-producer", "shop")
	require.ErrorContains(t, err, "checking the roles")
}

func TestGrants(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	url := pool.Config().ConnString()
	prefix := "shop_" + pool.Config().ConnConfig.Database
	roles := []string{prefix + "_a", prefix + "_b", prefix + "_c"}

	out, err := call(url, "grants", "-producer", roles[0])
	require.EqualError(t, err, `there is no role "`+roles[0]+`": create it first, with the login and password that you want`)
	assert.Empty(t, out)

	for _, role := range roles {
		_, err := pool.Exec(t.Context(), `CREATE ROLE `+pgx.Identifier{role}.Sanitize())
		require.NoError(t, err)
		t.Cleanup(func() {
			_, err := pool.Exec(context.Background(),
				`DROP OWNED BY `+pgx.Identifier{role}.Sanitize()+`; DROP ROLE `+pgx.Identifier{role}.Sanitize())
			require.NoError(t, err)
		})
	}
	mayEnqueue := func(role string) (may bool) {
		require.NoError(t, pool.QueryRow(t.Context(),
			`SELECT has_schema_privilege($1, 'outbox', 'USAGE') AND has_function_privilege($1, 'outbox.enqueue_batch(jsonb, boolean)', 'EXECUTE')`, role).Scan(&may))
		return may
	}
	args := []string{"grants", "--producer", roles[0], "-producer", roles[1], "--dispatcher", roles[2]}
	printed, err := call(url, args...)
	require.NoError(t, err)
	assert.False(t, mayEnqueue(roles[0]), "it only prints")
	given, err := call(url, append(args, "--apply")...)
	require.NoError(t, err)
	assert.Equal(t, printed, given)
	assert.True(t, mayEnqueue(roles[0]))
	assert.True(t, mayEnqueue(roles[1]))
	assert.False(t, mayEnqueue(roles[2]))

	_, err = pool.Exec(t.Context(), printed)
	require.NoError(t, err, "what is printed is what psql takes")
}

// TestThePageShowsTheGrants keeps the page in step with the command.
func TestThePageShowsTheGrants(t *testing.T) {
	page, err := os.ReadFile("../../docs/rights.md")
	require.NoError(t, err)
	_, shown, found := strings.Cut(string(page),
		"```\n$ outflow grants -producer shop -dispatcher outflow -operator ops\n")
	require.True(t, found)
	shown, _, _ = strings.Cut(shown, "```")
	g := operator.Grants{Producers: []string{"shop"}, Dispatchers: []string{"outflow"}, Operators: []string{"ops"}}
	require.Equal(t, printed(g), shown)
}
