package operator

import (
	"context"
	"errors"
	"fmt"

	"github.com/outflowhq/outflow/outboxdb"
)

// MaxRoutes is how many routes a type can have. Each is a copy of the payload, of up to 16 MiB, in
// one statement of a producer.
const MaxRoutes = 32

// ErrLastRoute says that the route is its type's last. Without a route, the enqueue of such
// messages by route is refused, and with it the producers' transactions.
var ErrLastRoute = errors.New("it is the last route of its type")

// Route is a destination of messages of one type that are enqueued with outflow.ByRoute.
type Route struct {
	Type string `db:"type" json:"type"`
	// Destination is in canonical form. outflow.RouteToNowhere makes no message: it keeps a type
	// without another route from being refused.
	Destination string `db:"destination" json:"destination"`
}

const (
	routesTable = `outbox.routes`
	// otherRoutes counts the routes of the same type.
	otherRoutes = `(SELECT count(*) FROM ` + routesTable + ` AS r
                     WHERE r.type = $4::text AND r.destination <> $1::text)`
)

// setRouteSQL writes a route unless its type has $5 others. It returns whether it did.
const setRouteSQL = `
WITH changed AS (
    INSERT INTO ` + routesTable + ` AS c (destination, type)
    SELECT $1::text, $4::text WHERE ` + otherRoutes + ` < $5::bigint
        ON CONFLICT (destination, type) DO UPDATE SET type = excluded.type` + ruleColumns + `
           'set-route' AS act, pg_catalog.jsonb_build_object('type', c.type) AS detail` + outboxdb.AuditActSQL + `
SELECT count(*) > 0 FROM changed`

// unsetRouteSQL deletes a route; the last of its type only where $5 says so. It returns whether
// there was the route, and whether it was deleted.
const unsetRouteSQL = `
WITH others AS MATERIALIZED (
    SELECT ` + otherRoutes + ` AS n
), changed AS (
    DELETE FROM ` + routesTable + ofRule + ` AND ($5::boolean OR (SELECT o.n FROM others AS o) > 0)` + ruleColumns + `
           'unset-route' AS act, pg_catalog.jsonb_build_object(
               'type', c.type, 'last', nullif((SELECT o.n FROM others AS o) = 0, false)) AS detail` +
	outboxdb.AuditActSQL + `
SELECT EXISTS (SELECT FROM ` + routesTable + ofRule + `), (SELECT count(*) FROM changed) > 0`

// routesSQL returns the routes of a type ($1), or of all.
const routesSQL = `
SELECT r.type, r.destination FROM ` + routesTable + ` AS r
 WHERE $1::text = '' OR r.type = $1::text
 ORDER BY r.type, r.destination`

// SetRoute sets a route for messages that are enqueued from now on. To set a route again changes
// nothing, and is noted in the audit. A bad route, and one beyond MaxRoutes, is an
// InvalidRuleError.
func (o *Operator) SetRoute(ctx context.Context, r Route, by Actor) error {
	set := false
	err := checkRule(ruleField{"destination", r.Destination}, ruleField{"type", r.Type})
	if err == nil {
		err = o.changeRule(ctx, routesTable, setRouteSQL, by,
			r.Destination, r.Type, []any{MaxRoutes}, &set)
	}
	if err == nil && !set {
		err = &InvalidRuleError{"type", fmt.Sprintf("wants at most %d routes", MaxRoutes)}
	}
	if err != nil {
		return fmt.Errorf("setting a route: %w", err)
	}
	return nil
}

// UnsetRoute deletes a route. found is false where there is no such route. The last route of a type
// is deleted only by force; otherwise the error is ErrLastRoute, and nothing is changed.
func (o *Operator) UnsetRoute(ctx context.Context, r Route, force bool, by Actor) (found bool, err error) {
	if checkRule(ruleField{"destination", r.Destination}, ruleField{"type", r.Type}) != nil {
		return false, nil
	}
	deleted := false
	err = o.changeRule(ctx, routesTable, unsetRouteSQL, by,
		r.Destination, r.Type, []any{force}, &found, &deleted)
	if err == nil && found && !deleted {
		err = ErrLastRoute
	}
	if err != nil {
		return found, fmt.Errorf("unsetting a route: %w", err)
	}
	return found, nil
}

// Routes returns the routes of a type, or of all where messageType is empty, by type and
// destination.
func (o *Operator) Routes(ctx context.Context, messageType string) ([]Route, error) {
	if checkRule(ruleField{"type", messageType}) != nil {
		return nil, nil
	}
	return readRules[Route](ctx, o, "routes", routesSQL, messageType)
}
