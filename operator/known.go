package operator

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow/outboxdb"
)

const (
	// knownSample is how many of the newest messages stand for all: to read every message would
	// take too long.
	knownSample = 10_000
	// maxKnown bounds the destinations that come from elsewhere.
	maxKnown = 1_000
)

// newest are the newest messages by ID, whatever their state, and the newest dead ones.
const newest = `
newest AS MATERIALIZED (
    (SELECT m.destination, m.type FROM outbox.messages AS m ORDER BY m.id DESC LIMIT $1)
    UNION ALL
    (SELECT m.destination, m.type FROM outbox.messages AS m
      WHERE m.state = 'dead' AND m.finished_at IS NOT NULL ORDER BY m.finished_at DESC LIMIT $1)
)`

// knownDestinationsSQL returns the destinations that have a row of their own in
// outbox.destinations, and those of the newest messages; $3 too, if a message waits for it.
const knownDestinationsSQL = `
WITH ` + newest + `
SELECT destination
  FROM (SELECT d.destination FROM outbox.destinations AS d
         WHERE d.destination = d.covers_from AND d.destination LIKE '%//%' LIMIT $2) AS seen
UNION
SELECT destination FROM newest
UNION
SELECT $3::text WHERE EXISTS (SELECT FROM outbox.messages AS m
                                WHERE m.state = 'pending' AND NOT m.parked AND m.destination = $3::text)
                   OR EXISTS (SELECT FROM outbox.messages AS m WHERE m.retrying AND m.destination = $3::text)
                   OR EXISTS (SELECT FROM outbox.destinations AS d WHERE d.destination = $3::text)
                   OR EXISTS (SELECT FROM outbox.streams AS s
                               WHERE s.destination = $3::text AND s.started_at IS NOT NULL)`

// pendingDestinationsSQL walks the claim index from destination to destination, one look-up each,
// and adds those of the rows that are parked for the shortest time: up to $1 of them.
const pendingDestinationsSQL = `
WITH RECURSIVE walk AS (
    (SELECT m.destination FROM outbox.messages AS m
      WHERE m.state = 'pending' AND NOT m.parked ORDER BY m.destination LIMIT 1)
    UNION ALL
    SELECT (SELECT m.destination FROM outbox.messages AS m
             WHERE m.state = 'pending' AND NOT m.parked AND m.destination > walk.destination
             ORDER BY m.destination LIMIT 1)
      FROM walk WHERE walk.destination IS NOT NULL
)
(SELECT destination FROM walk WHERE destination IS NOT NULL LIMIT $1)
UNION
SELECT p.destination
  FROM (SELECT m.destination FROM outbox.messages AS m
         WHERE m.state = 'pending' AND m.parked ORDER BY ` + outboxdb.SecondOfSQL + ` LIMIT 1000) AS p
 LIMIT $1`

const knownTypesSQL = `WITH ` + newest + ` SELECT DISTINCT type FROM newest`

// KnownDestinations returns destinations that messages have, and the given one if a message is
// known to have it. It looks at pending messages and at the newest others. It is for people who
// mistyped a destination.
func (o *Operator) KnownDestinations(ctx context.Context, destination string) ([]string, error) {
	pending, err := o.known(ctx, "destinations", pendingDestinationsSQL, maxKnown)
	if err != nil {
		return nil, err
	}
	others, err := o.known(ctx, "destinations", knownDestinationsSQL, knownSample, maxKnown, destination)
	return append(pending, others...), err
}

// KnownTypes returns the types of the newest messages.
func (o *Operator) KnownTypes(ctx context.Context) ([]string, error) {
	return o.known(ctx, "types", knownTypesSQL, knownSample)
}

func (o *Operator) known(ctx context.Context, what, statement string, args ...any) ([]string, error) {
	rows, err := o.pool.Query(ctx, statement, args...)
	if err != nil {
		return nil, fmt.Errorf("looking for known %s: %w", what, err)
	}
	known, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("looking for known %s: %w", what, err)
	}
	return known, nil
}
