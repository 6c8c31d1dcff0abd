package aws

import (
	"regexp"
	"strings"
	"unicode/utf8"
)

// XMLSafe reports whether SQS and SNS accept s as a body or an attribute's value:
// #x9 | #xA | #xD | #x20 to #xD7FF | #xE000 to #xFFFD | #x10000 to #x10FFFF.
// They refuse the rest, or once replaced it with U+FFFD.
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html
func XMLSafe(s string) bool {
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

// attributeName is AWS's rule for the name of an attribute: letters, digits, _, - and single
// inner dots. See IsAttributeName.
var attributeName = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)

// IsAttributeName reports whether AWS takes a name of an attribute: 256 characters at most.
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-message-metadata.html
func IsAttributeName(name string) bool { return len(name) <= 256 && attributeName.MatchString(name) }

// reservedPrefixes begin names, in any case, that no header has as an attribute of its own: the
// first is Outflow's, the others are AWS's.
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-message-metadata.html
var reservedPrefixes = []string{"outflow", "aws.", "amazon."}

// isOwnAttribute reports whether a header can be an attribute of its own.
func isOwnAttribute(name, value string) bool {
	if value == "" || !XMLSafe(value) || !IsAttributeName(name) {
		return false
	}
	lower := strings.ToLower(name)
	for _, prefix := range reservedPrefixes {
		if strings.HasPrefix(lower, prefix) {
			return false
		}
	}
	return lower != AttributeContentType
}
