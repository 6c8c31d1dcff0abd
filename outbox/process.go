package outbox

import (
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
)

// Process is a running starter or worker, as other processes and operators see it.
type Process struct {
	// ID is a new one for each start of the process.
	ID uuid.UUID
	// Name is the program's, Host that of its machine.
	Name, Host string
	// Schemes are those of the destinations that it publishes to. nil: it does not say, and may
	// publish to any.
	Schemes []string
	// Scans says that it claims messages.
	Scans bool
	// Trigger is what wakes it: "poll", "listen" or "wal", empty where it claims none. TriggerProblem
	// says why that does not work.
	Trigger, TriggerProblem string
}

// AnnounceInterval lies between two writes of a process's entry. A process whose last write is a
// minute old counts as gone.
const AnnounceInterval = 15 * time.Second

// Served says which running processes publish to a scheme.
type Served int

// The values of Served.
const (
	// ServedByNone: no running process publishes to the scheme.
	ServedByNone Served = iota
	// ServedByWorkers: some do, and none of them claims messages.
	ServedByWorkers
	// ServedByScanners: one of them claims messages.
	ServedByScanners
)

// SchemeOf is the scheme of a destination.
func SchemeOf(destination string) string {
	scheme, _, _ := strings.Cut(destination, "://")
	return scheme
}

// DestinationSchemes are the schemes of destinations that publishers of these schemes get: that of
// https also gets http.
func DestinationSchemes(publishers []string) []string {
	schemes := slices.Clone(publishers)
	if slices.Contains(schemes, outflow.SchemeHTTPS) {
		schemes = append(schemes, outflow.SchemeHTTP)
	}
	slices.Sort(schemes)
	return slices.Compact(schemes)
}
