package workflows

import (
	"fmt"
	"strings"
	"time"
	"unicode"

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

	ActivityPublish       = "Publish"
	ActivityMarkDelivered = "MarkDelivered"
	ActivityMarkDead      = "MarkDead"
	ActivityMarkExpired   = "MarkExpired"
	ActivityMarkCancelled = "MarkCancelled"

	ActivityCallback           = "Callback"
	ActivityMarkCallbackFailed = "MarkCallbackFailed"

	ActivityTableHealth = "TableHealth"
	ActivityPurge       = "Purge"

	// The IDs of the regular activities, for "temporal activity … --activity-id". A
	// run that was told to try now goes on with "publish-2", "publish-3" and so on.
	ActivityIDPublish  = "publish"
	ActivityIDCallback = "callback"
	ActivityIDMark     = "mark"
	ActivityIDHealth   = "health"
	ActivityIDPurge    = "purge"

	// QueryDeliveryStatus answers with a Status.
	QueryDeliveryStatus = "delivery-status"

	// SignalTryNow has a run that waits for its next durable attempt make it at
	// once: its destination works again, or somebody asks for it. It carries nothing.
	SignalTryNow = "try-now"

	// StateRetrying is the value of OutflowState while a run is off the fast
	// path. Elsewhere the run's own status says how it stands.
	StateRetrying = "retrying"
)

// TaskQueueFor is the default task queue of an outbox's starters and workers:
// outboxes that share a namespace do not share one.
func TaskQueueFor(outbox string) string { return "outflow-" + outbox }

// The search attributes. They are optional: a run that was started without
// them sets none.
var (
	AttributeDestination = temporal.NewSearchAttributeKeyKeyword("OutflowDestination")
	AttributeType        = temporal.NewSearchAttributeKeyKeyword("OutflowType")
	AttributeState       = temporal.NewSearchAttributeKeyKeyword("OutflowState")
)

// maxKeyword is the longest Keyword that SQL visibility stores; a longer one
// makes the write fail.
const maxKeyword = 255

// The types of the application errors with which a run fails.
const (
	ErrTypeDead    = "Dead"
	ErrTypeExpired = "Expired"
	// ErrTypeCallbackFailed is of a run of Callback that gave up.
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

// ID is the workflow ID of a callback. Each generation's is another, so that the
// end of a message that was started anew never waits for an earlier one's.
func (in CallbackInput) ID() string {
	return fmt.Sprintf("%s/callback/%d", DeliverID(in.Outbox, in.MessageID), in.Generation)
}

// Summary is the line that the Web UI shows for the run.
func (in CallbackInput) Summary() string {
	return fmt.Sprintf("tell the producer how message %s ended", in.MessageID)
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

// StartAttributes are the search attributes of a run's start, the destination as
// outflow.DisplayDestination has it: no query gets into Temporal.
func StartAttributes(destination, messageType string) temporal.SearchAttributes {
	return temporal.NewSearchAttributes(
		AttributeDestination.ValueSet(keyword(outflow.DisplayDestination(destination))),
		AttributeType.ValueSet(keyword(messageType)),
	)
}

// Summary is the line that the Web UI shows for a run. Temporal takes up to 400
// bytes (limit.userMetadataSummarySize).
func Summary(destination, messageType string) string {
	line := code(messageType) + " to "
	return line + code(cut(outflow.DisplayDestination(destination), maxKeyword-len(line)-len("``")))
}

// code makes text inert: the Web UI reads summaries and details as Markdown, and a
// producer's text may be a link that says something else. Within backticks it is
// shown as it is, and made a link of by nobody.
// https://docs.temporal.io/develop/go/platform/enriching-ui
func code(text string) string {
	return "`" + strings.Map(func(r rune) rune {
		switch {
		case r == '`':
			return '\''
		case unicode.IsControl(r):
			return ' '
		}
		return r
	}, text) + "`"
}

// keyword cuts s to what a Keyword holds.
func keyword(s string) string { return cut(s, maxKeyword) }

// cut cuts s to most bytes, at a character's border.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	end := 0
	for i := range s {
		if i > most {
			break
		}
		end = i
	}
	return s[:end]
}

// Details is what the Web UI shows on a run's page, in Temporal's Markdown.
func Details(r outbox.Record) string {
	details := fmt.Sprintf("* Message: `%s`\n* Destination: %s\n* Type: %s\n* Generation: %d\n* Enqueued: %s",
		r.ID, code(outflow.DisplayDestination(r.Destination)), code(r.Type), r.Generation, moment(r.EnqueuedAt))
	if !r.DueAt.Equal(r.EnqueuedAt) {
		details += "\n* Due: " + moment(r.DueAt)
	}
	if !r.ExpiresAt.IsZero() {
		details += "\n* Expires: " + moment(r.ExpiresAt)
	}
	return details
}

func moment(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
