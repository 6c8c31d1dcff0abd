package awssns

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish/internal/aws"
)

const (
	// maxBytes is the most bytes of a message on any topic, 1 MiB. A topic takes 256 KiB unless
	// its MaximumMessageSize says otherwise, and no more for all messages of one request.
	// Body, subject, and name, type and value of each attribute count.
	// https://docs.aws.amazon.com/sns/latest/dg/large-message-payloads.html
	// https://docs.aws.amazon.com/sns/latest/api/API_PublishBatch.html
	maxBytes        = 1_048_576
	defaultMaxBytes = 262_144
)

// HeaderSubject is the header that also becomes the Subject of a message, which SNS shows as that
// of an e-mail, and which is in the JSON that a subscriber without raw delivery gets. A value that
// SNS would refuse as a subject stays an attribute alone: it is empty, begins with a space, has
// control characters or line breaks, or has 100 characters or more.
const HeaderSubject = "subject"

// maxSubject: "Subjects must be UTF-8 text with no line breaks or control characters, and less
// than 100 characters long." An older rule wants a letter, a digit or punctuation first.
// https://docs.aws.amazon.com/sns/latest/api/API_Publish.html
const maxSubject = 99

func addSubject(m outflow.Message, e *aws.Encoded) {
	if value := m.Headers[HeaderSubject]; isSubject(value) {
		e.Subject = value
	}
}

func isSubject(s string) bool {
	first, _ := utf8.DecodeRuneInString(s)
	return s != "" && utf8.RuneCountInString(s) <= maxSubject && aws.XMLSafe(s) && !unicode.IsSpace(first) &&
		!strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' })
}
