package operator

import (
	"context"

	"github.com/outflowhq/outflow/outbox"
)

// Purge deletes one chunk of final messages, or moves it to outbox.history, as the schedule's purge
// does (outboxdb.Store.PurgeMessages). The same statement notes in the audit what it deleted.
func (o *Operator) Purge(ctx context.Context, p outbox.Purge, by Actor) (outbox.Purged, error) {
	return o.store.PurgeAs(ctx, p, by.Who, by.Why)
}
