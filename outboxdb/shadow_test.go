package outboxdb_test

import (
	"errors"
	"fmt"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	inboxmigrate "github.com/outflowhq/outflow/inbox/migrate"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/operator"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/outboxdb/migrate"
)

// Postgres prefers a function or operator whose arguments match exactly to one that
// needs a cast or is polymorphic, in whatever schema of the search path it stands.
// Where "public" is on it and anybody may create there, such a function of anybody's
// runs with the rights of whoever sends the statement.

// sources are the folders with statements. Migrating has a search path of its own.
var sources = []string{".", "wait", "../inbox", "../internal/database", "../operator"}

// statementsOf returns every constant string in the sources that is a statement, by
// its beginning.
func statementsOf(t *testing.T, folders ...string) (statements []string) {
	t.Helper()
	constants := importer{}
	begins := regexp.MustCompile(`^\s*(SELECT|WITH|INSERT|UPDATE|DELETE)\s`)
	for _, folder := range folders {
		names, err := filepath.Glob(filepath.Join(folder, "*.go"))
		require.NoError(t, err)
		files := token.NewFileSet()
		var parsed []*ast.File
		for _, name := range names {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(files, name, nil, parser.SkipObjectResolution)
			require.NoError(t, err)
			parsed = append(parsed, file)
		}
		info := &types.Info{Types: make(map[ast.Expr]types.TypeAndValue)}
		// Constants need no import but outboxdb's constants, which operator's build on.
		checks := types.Config{Importer: constants, Error: func(error) {}}
		found, _ := checks.Check(folder, files, parsed, info)
		found.MarkComplete()
		constants[path.Join("github.com/outflowhq/outflow/outboxdb", folder)] = found
		for _, v := range info.Types {
			if v.Value != nil && v.Value.Kind() == constant.String && begins.MatchString(constant.StringVal(v.Value)) {
				statements = append(statements, constant.StringVal(v.Value))
			}
		}
	}
	slices.Sort(statements)
	return slices.Compact(statements)
}

// importer has the packages that statementsOf has read.
type importer map[string]*types.Package

func (i importer) Import(name string) (*types.Package, error) {
	if p := i[name]; p != nil {
		return p, nil
	}
	return nil, errors.New("not read")
}

// listStatements are the statements that are put together from a filter, as they are sent.
func listStatements(t *testing.T, pool *pgxpool.Pool) (statements []string) {
	t.Helper()
	watched, seen := traced(t, pool)
	o := operator.New(watched, nil, "")
	moment := operator.TimeBound{At: time.Now(), Set: true}
	ago := operator.TimeBound{Ago: time.Hour, Set: true}
	for _, f := range []operator.ListFilter{
		{}, {State: outflow.Pending, Since: moment, Until: ago, Destination: "sqs://a", Type: "a",
			Callback: outbox.CallbackDue},
		{State: outflow.Dead, Since: ago, Until: moment, Callback: outbox.CallbackSent}, {Retrying: true, Since: ago},
		{Group: uuid.New()}, {Group: uuid.New(), State: outflow.Dead, Since: ago},
	} {
		f.Limit = 1
		_, next, err := o.List(t.Context(), f)
		require.NoError(t, err)
		if f.After = next; next != "" {
			_, _, err := o.List(t.Context(), f)
			require.NoError(t, err)
		}
	}
	for _, sent := range seen.take() {
		if strings.HasPrefix(sent, "SELECT") && strings.Contains(sent, "FROM outbox.messages AS ") {
			statements = append(statements, sent)
		}
	}
	slices.Sort(statements)
	return slices.Compact(statements)
}

// operatorStatements are those of package operator that are whole.
func operatorStatements(t *testing.T, pool *pgxpool.Pool) (statements []string) {
	t.Helper()
	conn, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	own, all := statementsOf(t, "."), statementsOf(t, ".", "../operator")
	for _, s := range wholeStatements(t, conn.Conn(), all) {
		isPart := slices.ContainsFunc(all, func(other string) bool {
			return len(other) > len(s.SQL) && strings.Contains(other, s.SQL)
		})
		if !isPart && !slices.Contains(own, s.SQL) {
			statements = append(statements, s.SQL)
		}
	}
	require.Greater(t, len(statements), 20)
	return statements
}

// namesIn finds the operators and the functions that statements may mean.
func namesIn(statements []string) (operators, functions []string) {
	text := strings.Join(statements, "\n")
	operators = append(regexp.MustCompile(`[-+*/<>=~!@#%^&|?]+`).FindAllString(text, -1), "~~", "!~~")
	for _, called := range regexp.MustCompile(`([a-z_][a-z_0-9]*)\s*\(`).FindAllStringSubmatch(text, -1) {
		functions = append(functions, called[1])
	}
	slices.Sort(operators)
	slices.Sort(functions)
	return slices.Compact(operators), slices.Compact(functions)
}

// trapKinds are the types that arguments of statements have, or could be taken for.
var trapKinds = strings.Split("text,text[],uuid,uuid[],int2,int4,int4[],int8,numeric,float8,json,jsonb,timestamptz,timestamptz[],timestamp,date,"+
	"interval,interval[],boolean,boolean[],bytea,name,oid,xid,regclass,varchar,pg_snapshot", ",")

// plantOperators makes, for each operator ($1) and each pair of types ($2), an
// operator in public that fits exactly where Postgres has none. Rows of the catalog
// are some hundred times faster than CREATE OPERATOR.
const plantOperators = `
INSERT INTO pg_operator (oid, oprname, oprnamespace, oprowner, oprkind, oprcanmerge, oprcanhash, oprleft, oprright, oprresult,
                         oprcom, oprnegate, oprcode, oprrest, oprjoin)
SELECT pg_nextoid('pg_operator', 'oid', 'pg_operator_oid_index'), symbol, 'public'::regnamespace, f.proowner, 'b', false, false, a, b, 'boolean'::regtype,
       0, 0, f.oid, 0, 0
  FROM unnest($1::text[]) AS symbol, unnest($2::text[]::regtype[]) AS a, unnest($2::text[]::regtype[]) AS b, pg_proc AS f
 WHERE f.oid = 'public.sprung'::regproc
   AND NOT EXISTS (SELECT FROM pg_operator AS o WHERE o.oprname = symbol AND o.oprleft = a AND o.oprright = b)`

// plantFunctions makes functions in public: for each of the names ($1) of Postgres's
// functions, each one of two arguments or fewer ($2 are the types), and each that
// differs in one argument from one of Postgres's.
const plantFunctions = `
WITH called AS (
    SELECT p.proname, p.proargtypes::oid[] AS args, p.pronargs, p.provariadic FROM pg_proc AS p
     WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname = ANY ($1) AND p.prokind <> 'p'
), kind AS (
    SELECT k::oid FROM unnest($2::text[]::regtype[]) AS k
), signature AS (
    SELECT c.proname, ARRAY[a.k] AS args FROM called AS c, kind AS a
    UNION
    SELECT c.proname, ARRAY[a.k, b.k] FROM called AS c, kind AS a, kind AS b WHERE c.pronargs = 2 OR c.provariadic <> 0
    UNION
    SELECT c.proname, (SELECT array_agg(CASE WHEN arg.place = at THEN a.k ELSE arg.kind END ORDER BY arg.place)
                         FROM unnest(c.args) WITH ORDINALITY AS arg (kind, place))
      FROM called AS c, generate_series(1, c.pronargs) AS at, kind AS a
     WHERE c.pronargs > 2 AND NOT EXISTS (SELECT FROM pg_type AS t WHERE t.oid = ANY (c.args) AND t.typtype = 'p')
)
SELECT s.proname::text AS name, array_to_string(s.args, ' ') AS args, cardinality(s.args) AS n
  FROM signature AS s
 WHERE NOT EXISTS (SELECT FROM pg_proc AS p WHERE p.proname = s.proname AND p.proargtypes = array_to_string(s.args, ' ')::oidvector)`

// copyFunction copies public.sprung under another name with other arguments.
const copyFunction = `
SELECT format('INSERT INTO pg_proc (%s) SELECT %s FROM pg_proc AS p, (%s) AS s WHERE p.oid = ''public.sprung''::regproc', string_agg(attname, ', '),
       string_agg(CASE attname WHEN 'oid' THEN 'pg_nextoid(''pg_proc'', ''oid'', ''pg_proc_oid_index'')' WHEN 'proname' THEN 's.name::name'
                               WHEN 'proargtypes' THEN 's.args::oidvector' WHEN 'pronargs' THEN 's.n' ELSE 'p.' || attname END, ', '), $1::text)
  FROM pg_attribute WHERE attrelid = 'pg_proc'::regclass AND attnum > 0 AND NOT attisdropped`

// plantTraps plants them all, for everything that statements name.
func plantTraps(t *testing.T, pool *pgxpool.Pool, statements []string) {
	t.Helper()
	operators, functions := namesIn(statements)
	known := values[string](t, pool, `SELECT DISTINCT oprname::text FROM pg_operator WHERE oprname = ANY ($1)`,
		operators)
	copying := value[string](t, pool, copyFunction, plantFunctions)
	execute(t, pool, `CREATE FUNCTION public.sprung(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'a trap was sprung'; END $$`)
	safe := withSearchPath(t, pool, "pg_catalog") // not to be caught itself
	execute(t, safe, plantOperators, known, trapKinds)
	execute(t, safe, copying, functions, trapKinds)
	require.Greater(t, value[int](t, safe, `SELECT count(*) FROM pg_operator WHERE oprnamespace = 'public'::regnamespace`), 1000)
	require.Greater(t, value[int](t, safe, `SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace`),
		2000)
}

// migrationTexts are all migrations.
func migrationTexts(t *testing.T) (texts []string) {
	t.Helper()
	for _, folder := range []string{"migrations", "../inbox/migrations"} {
		names, err := filepath.Glob(filepath.Join(folder, "*.sql"))
		require.NoError(t, err)
		for _, name := range names {
			texts = append(texts, read(t, name))
		}
	}
	return texts
}

// depends finds what in our schemas means something in public: a function's parsed
// body, a constraint, a default, an index.
const depends = `
SELECT DISTINCT pg_describe_object(classid, objid, objsubid) || ' uses ' || pg_describe_object(refclassid, refobjid, refobjsubid)
  FROM pg_depend
 WHERE refobjid IN (SELECT oid FROM pg_proc WHERE pronamespace = 'public'::regnamespace
                    UNION ALL SELECT oid FROM pg_operator WHERE oprnamespace = 'public'::regnamespace)
   AND objid NOT IN (SELECT oid FROM pg_proc WHERE pronamespace = 'public'::regnamespace
                     UNION ALL SELECT oid FROM pg_operator WHERE oprnamespace = 'public'::regnamespace)
 ORDER BY 1`

func withSearchPath(t *testing.T, pool *pgxpool.Pool, path string) *pgxpool.Pool {
	t.Helper()
	return another(t, pool, func(c *pgxpool.Config) { c.ConnConfig.RuntimeParams["search_path"] = path })
}

// usualPath is Postgres's own default, which an embedder's pool has.
const usualPath = `"$user", public`

// Neither the migrations nor what they leave behind run anybody's functions.
func TestMigrationsSpringNoTrap(t *testing.T) {
	t.Parallel()
	pool := withSearchPath(t, teststack.NewEmpty(t), usualPath)
	plantTraps(t, pool, slices.Concat(migrationTexts(t), statementsOf(t, sources...),
		[]string{"pg_try_advisory_lock() pg_advisory_unlock() = <>"}))
	_, err := migrate.Up(t.Context(), pool)
	require.NoError(t, err)
	_, err = inboxmigrate.Up(t.Context(), pool)
	require.NoError(t, err)
	require.Empty(t, values[string](t, withSearchPath(t, pool, "pg_catalog"), depends))
	role := newRole(t, pool)
	g := operator.Grants{Producers: []string{role}, Dispatchers: []string{role}, Operators: []string{role}}
	require.NoError(t, g.CheckRoles(t.Context(), pool))
	require.NoError(t, g.Apply(t.Context(), pool))

	status, err := migrate.Status(t.Context(), pool)
	require.NoError(t, err)
	for range status {
		_, err := migrate.Down(t.Context(), pool)
		require.NoError(t, err)
	}
}

// Bodies that are text are looked up at each call, so each of these functions brings
// its own search path; the others were parsed when they were created.
func TestFunctionsBringTheirSearchPath(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	require.Empty(t, values[string](t, pool, `
		SELECT oid::regprocedure::text FROM pg_proc
		 WHERE pronamespace = 'outbox'::regnamespace AND prosqlbody IS NULL
		   AND NOT coalesce(proconfig @> ARRAY['search_path=pg_catalog, pg_temp'], false)`))
}

// No statement means a function or operator of anybody's, on whatever connection.
// Each one becomes the body of a function that Postgres parses when it is created:
// then its catalog says what was meant.
func TestStatementsSpringNoTrap(t *testing.T) {
	t.Parallel()
	pool := withSearchPath(t, teststack.New(t), usualPath)
	_, err := inboxmigrate.Up(t.Context(), pool)
	require.NoError(t, err)
	statements := slices.Concat(statementsOf(t, sources...), listStatements(t, pool))
	require.Greater(t, len(statements), 50)
	for _, known := range []string{outboxdb.StatementClaim, outboxdb.StatementFinish, outboxdb.StatementEnqueue,
		outboxdb.StatementRequestCancel} {
		require.Contains(t, statements, known)
	}
	conn, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	whole := wholeStatements(t, conn.Conn(), statements)
	require.Greater(t, len(whole), 50)
	plantTraps(t, pool, statements)
	safe := withSearchPath(t, pool, "pg_catalog")

	for i, s := range whole {
		again, err := conn.Conn().Prepare(t.Context(), "", s.SQL)
		if !assertNoError(t, err, s.SQL) {
			continue
		}
		if !slices.Equal(s.ParamOIDs, again.ParamOIDs) {
			t.Errorf("other parameters, so another meaning: %s", s.SQL)
			continue
		}
		var params []string
		for _, oid := range s.ParamOIDs {
			params = append(params, value[string](t, safe, `SELECT $1::oid::regtype::text`, oid))
		}
		_, err = conn.Exec(t.Context(), fmt.Sprintf("CREATE FUNCTION public.statement_%d(%s) RETURNS void LANGUAGE sql BEGIN ATOMIC %s; END", i, strings.Join(params, ", "), s.SQL))
		if !assertNoError(t, err, s.SQL) {
			continue
		}
		const meant = `
			SELECT DISTINCT pg_describe_object(refclassid, refobjid, refobjsubid) FROM pg_depend
			 WHERE objid = (SELECT oid FROM pg_proc WHERE proname = $1)
			   AND refobjid IN (SELECT oid FROM pg_proc WHERE pronamespace = 'public'::regnamespace
			                    UNION ALL SELECT oid FROM pg_operator WHERE oprnamespace = 'public'::regnamespace)`
		if sprung := values[string](t, safe, meant, fmt.Sprintf("statement_%d", i)); len(sprung) > 0 {
			t.Errorf("springs traps: %s\n%s", strings.Join(sprung, ", "), s.SQL)
		}
	}
	require.True(t, deliverPast(t, pool), "functions run into none either")
	// Of these a trap can have any number of arguments.
	for _, name := range values[string](t, safe,
		`SELECT DISTINCT proname::text FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND provariadic <> 0`) {
		unqualified := regexp.MustCompile(`(^|[^.\w])` + name + `\(`)
		for _, s := range whole {
			require.NotRegexp(t, unqualified, s.SQL)
		}
	}
}

func assertNoError(t *testing.T, err error, statement string) bool {
	t.Helper()
	if err != nil {
		t.Errorf("%v: %s", err, statement)
	}
	return err == nil
}

// wholeStatements leaves out what is a part of others, or put together elsewhere: it
// can't be parsed alone.
func wholeStatements(t *testing.T, conn *pgx.Conn, statements []string) (whole []described) {
	t.Helper()
	for _, s := range statements {
		prepared, err := conn.Prepare(t.Context(), "", s)
		if err == nil {
			whole = append(whole, described{s, prepared.ParamOIDs})
			continue
		}
		isPart := slices.ContainsFunc(statements,
			func(other string) bool { return len(other) > len(s) && strings.Contains(other, s) })
		require.True(t, isPart || strings.Contains(err.Error(), "syntax error at end of input"), "%v: %s", err, s)
	}
	return whole
}

type described struct {
	SQL       string
	ParamOIDs []uint32
}

func (d described) has(part string) bool { return strings.Contains(d.SQL, part) }

// deliverPast runs the functions: a message is enqueued, waited for and ended.
func deliverPast(t *testing.T, pool *pgxpool.Pool) bool {
	t.Helper()
	m := message("sqs://orders")
	m.Headers, m.Callback, m.OrderingKey, m.DueIn, m.ExpiresIn = map[string]string{"tenant": "acme"}, "sqs://replies", "a", time.Millisecond, time.Hour
	bad := m
	bad.Type = "!"
	inTx(t, pool, func(tx pgx.Tx) {
		_, err := outboxdb.Enqueue(t.Context(), tx, bad)
		require.ErrorContains(t, err, "type: wants")
	})
	setRule(t, operator.New(pool, nil, ""),
		operator.CallbackRule{Destination: "sqs://orders", Callback: "sqs://replies"})
	setRoute(t, operator.New(pool, nil, ""), "user-registered", "sqs://orders", "sqs://audit")
	ids := enqueue(t, pool, m, message("sqs://orders"), message("arn:aws:sqs:eu-west-1:123456789012:other"),
		message(outflow.ByRoute))
	value[any](t, pool, `SELECT outbox.enqueue('sqs://orders'::text, 'a'::text, 'x'::text)`)
	_, answers := startWait(t, pool, pool, ids[1])
	deliver(t, pool, ids[1])
	return requireAnswer(t, answers).State == outflow.Delivered
}

// Other tools apply the files as a whole or statement by statement, inside a
// transaction or not, and then go on with their own search path.
func TestMigrationsByOtherTools(t *testing.T) {
	t.Parallel()
	files := func(ending string) (names []string) {
		for _, name := range migrationNames(t) {
			names = append(names, "migrations/"+name+ending)
		}
		return append(names, "../inbox/migrations/0001_seen"+ending)
	}
	up, down := files(".up.sql"), files(".down.sql")
	slices.Reverse(down)
	for name, apply := range map[string]func(t *testing.T, pool *pgxpool.Pool, file string) (searchPath string){
		"each file at once": func(t *testing.T, pool *pgxpool.Pool, file string) string {
			conn, err := pool.Acquire(t.Context())
			require.NoError(t, err)
			defer conn.Release()
			_, err = conn.Conn().PgConn().Exec(t.Context(), read(t, file)).ReadAll()
			require.NoError(t, err, file)
			return value[string](t, conn, "SHOW search_path")
		},
		"psql": func(t *testing.T, pool *pgxpool.Pool,
			file string) string {
			return psql(t, pool, file)
		},
		"psql --single-transaction": func(t *testing.T, pool *pgxpool.Pool,
			file string) string {
			return psql(t, pool, file, "-1")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := withSearchPath(t, teststack.NewEmpty(t), usualPath)
			plantTraps(t, pool, migrationTexts(t))
			for _, file := range up {
				require.Equal(t, usualPath, apply(t, pool, file), file)
			}
			require.Empty(t, values[string](t, withSearchPath(t, pool, "pg_catalog"), depends))
			require.True(t, deliverPast(t, pool))
			applied, err := migrate.Up(t.Context(), pool)
			require.NoError(t, err)
			require.Len(t, applied, len(migrationNames(t)))
			for _, a := range applied {
				require.True(t, a.Adopted, a.Name)
			}
			for _, file := range down {
				require.Equal(t, usualPath, apply(t, pool, file), file)
			}
		})
	}
}

// psql applies a file and returns the search path after that.
func psql(t *testing.T, pool *pgxpool.Pool, file string, options ...string) string {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/psql")
	if path, err := exec.LookPath("psql"); err == nil {
		found = append(found, path)
	}
	if len(found) == 0 {
		t.Skip("there is no psql")
	}
	command := exec.CommandContext(t.Context(), found[0],
		append(options, "-X", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1",
			"-d", pool.Config().ConnString(), "-f", file, "-c", "SHOW search_path")...)
	command.Env = append(os.Environ(), `PGOPTIONS=-c search_path="$user",public`)
	out, err := command.CombinedOutput()
	require.NoError(t, err, "%s: %s", file, out)
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return strings.ReplaceAll(lines[len(lines)-1], `",public`, `", public`)
}

func read(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(name)
	require.NoError(t, err)
	return string(content)
}
