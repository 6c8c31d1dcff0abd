package awssqs

import (
	"regexp"
	"strings"
	"unicode/utf8"
)

// xmlSafe reports whether SQS accepts s as a body or an attribute's value:
// #x9 | #xA | #xD | #x20 to #xD7FF | #xE000 to #xFFFD | #x10000 to #x10FFFF.
// It refuses the rest, or once replaced it with U+FFFD.
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html
func xmlSafe(s string) bool {
	for i, r := range s {
		switch {
		case r == '\t', r == '\n', r == '\r':
		case r < 0x20, r == 0xFFFE, r == 0xFFFF:
			return false
		case r == utf8.RuneError:
			// U+FFFD itself is allowed; an invalid byte reads as it, one byte long.
			if _, size := utf8.DecodeRuneInString(s[i:]); size == 1 {
				return false
			}
		}
	}
	return true
}

// attributeName is AWS's rule for the name of an attribute: up to 256 letters,
// digits, _, - and single inner dots.
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-message-metadata.html
var attributeName = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)

// ownAttribute reports whether a header can be an attribute of its own.
func ownAttribute(name, value string) bool {
	if value == "" || !xmlSafe(value) || len(name) > 256 || !attributeName.MatchString(name) {
		return false
	}
	lower := strings.ToLower(name)
	for _, prefix := range takenPrefixes {
		if strings.HasPrefix(lower, prefix) {
			return false
		}
	}
	return lower != AttributeContentType
}
