package workflows

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"go.temporal.io/sdk/temporal"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
)

// What people see of a run: its search attributes, its summary and its details.

// maxKeyword is the longest Keyword, in bytes, that SQL visibility stores. A longer one
// makes the write fail.
const maxKeyword = 255

// StartAttributes returns the search attributes of a run. The destination is in the form of
// outflow.DisplayDestination: its query stays out of Temporal.
func StartAttributes(destination, messageType string) temporal.SearchAttributes {
	return temporal.NewSearchAttributes(
		AttributeDestination.ValueSet(keyword(outflow.DisplayDestination(destination))),
		AttributeType.ValueSet(keyword(messageType)),
	)
}

// Summary returns the line that the Web UI shows for a run. Temporal accepts 400 bytes
// (limit.userMetadataSummarySize).
func Summary(destination, messageType string) string {
	line := code(messageType) + " to "
	return line + code(cut(outflow.DisplayDestination(destination), maxKeyword-len(line)-len("``")))
}

// code makes text inert. The Web UI renders summaries and details as Markdown, and a
// producer's text may contain a misleading link. Text within backticks is shown as it is.
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

// cut cuts s to maxBytes, at a character's border.
func cut(s string, maxBytes int) string {
	if len(s) <= maxBytes {
		return s
	}
	end := 0
	for i := range s {
		if i > maxBytes {
			break
		}
		end = i
	}
	return s[:end]
}

// Details returns what the Web UI shows on a run's page, in Temporal's Markdown.
func Details(r outbox.Record) string {
	details := fmt.Sprintf("* Message: `%s`\n* Destination: %s\n* Type: %s\n* Generation: %d\n* Enqueued: %s",
		r.ID, code(outflow.DisplayDestination(r.Destination)), code(r.Type), r.Generation, timestamp(r.EnqueuedAt))
	if !r.DueAt.Equal(r.EnqueuedAt) {
		details += "\n* Due: " + timestamp(r.DueAt)
	}
	if !r.ExpiresAt.IsZero() {
		details += "\n* Expires: " + timestamp(r.ExpiresAt)
	}
	return details
}

func timestamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
