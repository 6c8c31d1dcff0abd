package operator

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow/outbox"
)

const (
	// longBacklog is when a backlog is worth a stream, minBacklog of how many messages. Below, an
	// occasional message after a pause would look like years of work.
	longBacklog = 10 * time.Minute
	minBacklog  = 1_000
	// usualPace is what runs deliver a second on a small server, where nothing was delivered lately.
	usualPace = 200
	// paceSample bounds the delivered messages that are read for the pace of all destinations.
	paceSample = 50_000
)

// Backlog is a destination whose due messages take long with a run for each.
type Backlog struct {
	Destination string `json:"destination"`
	Due         int    `json:"due"`
	// PerSecond is how many runs have delivered a second in the last minute, or are taken to deliver
	// where none has.
	PerSecond float64 `json:"perSecond"`
	Seconds   float64 `json:"seconds"`
}

// pacesSQL returns how many messages of the destinations $1 runs have delivered a second in the last
// minute. Where the first one was later, the rate is since then: the backlog is that new. The sample
// ($2) is that of all destinations, read along the index of final rows.
const pacesSQL = `
SELECT n.destination,
       count(*)::float8 / greatest(extract(epoch FROM now() - min(n.finished_at)), 5)::float8 AS per_second
  FROM (SELECT m.destination, m.finished_at, m.streamed FROM outbox.messages AS m
         WHERE m.state = 'delivered' AND m.finished_at > now() - interval '1 minute'
         ORDER BY m.finished_at DESC LIMIT $2) AS n
 WHERE n.destination = ANY ($1::text[]) AND NOT n.streamed
 GROUP BY 1`

// pace is how fast the runs of a destination deliver.
type pace struct {
	Destination string  `db:"destination"`
	PerSecond   float64 `db:"per_second"`
}

// Backlogs returns the destinations whose due messages would take longer than ten minutes, and which a
// stream might help, by destination. The arguments are what Status and Streams have returned.
func (o *Operator) Backlogs(
	ctx context.Context, counts []PhaseCount, breakers []BreakerStatus, streams []Stream,
) ([]Backlog, error) {
	due := map[string]int{}
	var destinations []string
	for _, c := range counts {
		if c.Phase == "due" && c.Messages >= minBacklog && outbox.WhyNoStream(c.Destination) == "" &&
			!fails(c.Destination, breakers) && !hasStream(c.Destination, streams) {
			due[c.Destination] = c.Messages
			destinations = append(destinations, c.Destination)
		}
	}
	if len(due) == 0 {
		return nil, nil
	}
	rows, err := o.pool.Query(ctx, pacesSQL, destinations, paceSample)
	if err != nil {
		return nil, fmt.Errorf("looking how fast messages are delivered: %w", err)
	}
	paces, err := pgx.CollectRows(rows, pgx.RowToStructByName[pace])
	if err != nil {
		return nil, fmt.Errorf("looking how fast messages are delivered: %w", err)
	}
	var backlogs []Backlog
	for destination, n := range due {
		b := Backlog{Destination: destination, Due: n, PerSecond: usualPace}
		if at := slices.IndexFunc(paces, func(p pace) bool { return p.Destination == destination }); at >= 0 {
			b.PerSecond = paces[at].PerSecond
		}
		if b.Seconds = float64(n) / b.PerSecond; b.Seconds > longBacklog.Seconds() {
			backlogs = append(backlogs, b)
		}
	}
	slices.SortFunc(backlogs, func(a, b Backlog) int { return strings.Compare(a.Destination, b.Destination) })
	return backlogs, nil
}

// fails reports whether a breaker of the destination counts failures or is open: a stream would meet it
// too.
func fails(destination string, breakers []BreakerStatus) bool {
	return slices.ContainsFunc(breakers, func(b BreakerStatus) bool {
		return b.CoversFrom <= destination && destination < b.CoversBefore &&
			(b.FailingSince != nil || b.OpenUntil != nil)
	})
}

// hasStream reports whether a destination has a stream, had one that could not go on, or is to have none.
func hasStream(destination string, streams []Stream) bool {
	return slices.ContainsFunc(streams, func(s Stream) bool {
		return s.Destination == destination && (s.Open() || s.Broke() || s.Above != nil && *s.Above == 0)
	})
}
