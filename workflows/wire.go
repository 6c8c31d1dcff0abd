package workflows

import (
	"crypto/sha256"
	"fmt"

	"github.com/google/uuid"
	"go.temporal.io/sdk/temporal"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/outbox"
)

// The wire contract: names that stand in histories, in schedules and in
// people's scripts. A released name never changes.
const (
	WorkflowDeliver  = "Deliver"
	WorkflowMaintain = "Maintain"
	WorkflowCallback = "Callback"
	WorkflowStream   = "Stream"

	ActivityPublish       = "Publish"
	ActivityMarkDelivered = "MarkDelivered"
	ActivityMarkDead      = "MarkDead"
	ActivityMarkExpired   = "MarkExpired"
	ActivityMarkCancelled = "MarkCancelled"

	ActivityCallback           = "Callback"
	ActivityMarkCallbackFailed = "MarkCallbackFailed"

	ActivityStream = "Stream"

	ActivityTableHealth = "TableHealth"
	ActivityPurge       = "Purge"

	// The IDs of the regular activities, for "temporal activity … --activity-id". A
	// run that was signalled to try now goes on with "publish-2", "publish-3" and so on.
	ActivityIDPublish  = "publish"
	ActivityIDCallback = "callback"
	ActivityIDMark     = "mark"
	ActivityIDHealth   = "health"
	ActivityIDPurge    = "purge"
	ActivityIDStream   = "stream"

	// QueryDeliveryStatus answers with a Status.
	QueryDeliveryStatus = "delivery-status"

	// SignalTryNow has a run that waits for its next durable attempt make it at once:
	// its destination has recovered, or an operator asks for it. It carries no argument.
	SignalTryNow = "try-now"

	// StateRetrying is the value of OutflowState while a run is off the fast path.
	// Otherwise the run's own status says enough.
	StateRetrying = "retrying"
)

// TaskQueueFor is the default task queue of an outbox's starters and workers:
// outboxes that share a namespace do not share one.
func TaskQueueFor(outboxName string) string { return "outflow-" + outboxName }

// StreamTaskQueue is the task queue of the streams of an outbox whose other runs have this one. Streams
// have slots of their own: they take none from other deliveries.
func StreamTaskQueue(taskQueue string) string { return taskQueue + "-streams" }

// The search attributes. They are optional: a run that was started without them
// sets none.
var (
	AttributeDestination = temporal.NewSearchAttributeKeyKeyword("OutflowDestination")
	AttributeType        = temporal.NewSearchAttributeKeyKeyword("OutflowType")
	AttributeState       = temporal.NewSearchAttributeKeyKeyword("OutflowState")
)

// The types of the application errors with which a run fails.
const (
	ErrTypeDead    = "Dead"
	ErrTypeExpired = "Expired"
	// ErrTypeCallbackFailed is the type of a run of Callback that gave up.
	ErrTypeCallbackFailed = "CallbackFailed"
)

// DeliverInput is the whole input of Deliver: everything else is in the row.
type DeliverInput struct {
	Outbox     string    `json:"outbox"`
	Database   uuid.UUID `json:"database"`
	MessageID  uuid.UUID `json:"messageId"`
	Generation int       `json:"generation"`
}

func (in DeliverInput) owner() activities.Owner {
	return activities.Owner{Outbox: in.Outbox, Database: in.Database}
}

// DeliverID is the workflow ID of a message.
func DeliverID(outbox string, messageID uuid.UUID) string {
	return outbox + "/" + messageID.String()
}

// CallbackInput is the whole input of Callback: everything else is in the row.
type CallbackInput struct {
	Outbox     string    `json:"outbox"`
	Database   uuid.UUID `json:"database"`
	MessageID  uuid.UUID `json:"messageId"`
	Generation int       `json:"generation"`
}

func (in CallbackInput) owner() activities.Owner { return DeliverInput(in).owner() }

// ID is the workflow ID of a callback. Each generation has its own, so that the callback of
// a message that was started again never waits for an earlier one.
func (in CallbackInput) ID() string {
	return fmt.Sprintf("%s/callback/%d", DeliverID(in.Outbox, in.MessageID), in.Generation)
}

// Summary is the line that the Web UI shows for the run.
func (in CallbackInput) Summary() string {
	return fmt.Sprintf("notify the producer of the end of message %s", in.MessageID)
}

// StreamInput is the input of Stream.
type StreamInput struct {
	Outbox      string    `json:"outbox"`
	Database    uuid.UUID `json:"database"`
	Destination string    `json:"destination"`
	// Done is what earlier runs of the same stream have done.
	Done outbox.Progress `json:"done,omitzero"`
}

func (in StreamInput) owner() activities.Owner {
	return activities.Owner{Outbox: in.Outbox, Database: in.Database}
}

// StreamID is the workflow ID of a destination's stream. The hash tells destinations apart that are
// shown alike, or are too long to be shown (a workflow ID has at most 1,000 bytes).
func StreamID(outbox, destination string) string {
	sum := sha256.Sum256([]byte(destination))
	return fmt.Sprintf("%s/stream/%s-%x", outbox, cut(outflow.DisplayDestination(destination), maxKeyword), sum[:6])
}

// MaintainInput is the input of Maintain: the settings as the schedule has them.
type MaintainInput struct {
	Outbox    string            `json:"outbox"`
	Database  uuid.UUID         `json:"database"`
	Retention outflow.Retention `json:"retention"`
}

func (in MaintainInput) owner() activities.Owner {
	return activities.Owner{Outbox: in.Outbox, Database: in.Database}
}

// MaintainID is the ID of the schedule that starts Maintain, and the first part
// of its runs' workflow IDs.
func MaintainID(outbox string) string { return outbox + "/maintain" }
