package migrations

import (
	"context"
	"database/sql"
	"fmt"
)

// catalog has the objects of a schema: their names, such as "function outbox.new_id()", and
// their definitions.
type catalog map[string]string

// catalogSQL lists the objects of the schema $1 without goose's table: name and definition,
// rights of PUBLIC included. Rights of other roles, comments and owners are the user's own.
// Parentheses and spaces are left out: pg_dump may write others.
const catalogSQL = `
WITH relations AS (
    SELECT c.oid, c.relname, c.relkind, c.relowner, c.relacl, c.reloptions, c.reltoastrelid
      FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
     WHERE n.nspname = $1 AND c.relname NOT IN ('migrations', 'migrations_id_seq', 'migrations_pkey'))
SELECT format('%s %I.%I',
              CASE r.relkind WHEN 'r' THEN 'table' WHEN 'v' THEN 'view' WHEN 'S' THEN 'sequence' ELSE 'relation' END,
              $1::text, r.relname),
       concat_ws(' ', r.relkind, r.reloptions::text, t.reloptions::text,
           CASE r.relkind WHEN 'v' THEN translate(pg_get_viewdef(r.oid), '() ', '') END,
           (SELECT string_agg(privilege_type, ',' ORDER BY privilege_type) FROM aclexplode(r.relacl) WHERE grantee = 0))
  FROM relations AS r LEFT JOIN pg_class AS t ON t.oid = r.reltoastrelid
 WHERE r.relkind NOT IN ('i', 'c')
UNION ALL
SELECT format('column %I.%I.%I', $1::text, r.relname, a.attname),
       concat_ws(' ', format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated,
           a.attcollation::regcollation, translate(pg_get_expr(d.adbin, d.adrelid), '() ', ''))
  FROM relations AS r JOIN pg_attribute AS a ON a.attrelid = r.oid
  LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE r.relkind IN ('r', 'v', 'p') AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT format('constraint %I of %I.%I', c.conname, $1::text, r.relname),
       translate(pg_get_constraintdef(c.oid), '() ', '')
  FROM relations AS r JOIN pg_constraint AS c ON c.conrelid = r.oid
 WHERE c.contype <> 'n'
UNION ALL
SELECT format('index %I.%I', $1::text, r.relname), translate(pg_get_indexdef(r.oid), '() ', '')
  FROM relations AS r
 WHERE r.relkind = 'i'
UNION ALL
SELECT format('trigger %I of %I.%I', t.tgname, $1::text, r.relname), pg_get_triggerdef(t.oid)
  FROM relations AS r JOIN pg_trigger AS t ON t.tgrelid = r.oid
 WHERE NOT t.tgisinternal
UNION ALL
SELECT format('function %I.%I(%s)', $1::text, p.proname, pg_get_function_identity_arguments(p.oid)),
       concat_ws(' ', pg_get_functiondef(p.oid),
           (SELECT string_agg(privilege_type, ',')
              FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) WHERE grantee = 0))
  FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
 WHERE n.nspname = $1 AND p.prokind IN ('f', 'p')
UNION ALL
SELECT format('type %I.%I', $1::text, t.typname), t.typtype::text
  FROM pg_type AS t JOIN pg_namespace AS n ON n.oid = t.typnamespace
 WHERE n.nspname = $1 AND t.typtype IN ('e', 'd', 'r')`

// readCatalog reads the schema's objects in tx, with a search path under which Postgres
// qualifies every name.
func (s Set) readCatalog(ctx context.Context, tx *sql.Tx) (catalog, error) {
	if _, err := tx.ExecContext(ctx, `SET LOCAL search_path = pg_catalog`); err != nil {
		return nil, fmt.Errorf("reading the catalog: %w", err)
	}
	rows, err := tx.QueryContext(ctx, catalogSQL, s.Schema)
	if err != nil {
		return nil, fmt.Errorf("reading the catalog: %w", err)
	}
	defer rows.Close()
	found := catalog{}
	for rows.Next() {
		var object, definition string
		if err := rows.Scan(&object, &definition); err != nil {
			return nil, fmt.Errorf("reading the catalog: %w", err)
		}
		found[object] = definition
	}
	return found, rows.Err()
}
