package fakesns

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

// The rules of a topic, a message and a batch.
const (
	// https://docs.aws.amazon.com/sns/latest/dg/sns-batch-api-actions.html
	maxEntries = 10
	// "You can set the MaximumMessageSize topic attribute to any integer value between 1,024 and
	// 1,048,576 bytes. By default … 262,144 bytes."
	// https://docs.aws.amazon.com/sns/latest/dg/large-message-payloads.html
	minLimit, defaultLimit, maxLimit = 1024, 262_144, 1_048_576
	// "Topics with MaximumMessageSize set above 256 KiB support … up to 100 total subscriptions".
	maxLargeSubscriptions = 100
)

var (
	// "up to 80 characters … alphanumeric characters, hyphens(-), and underscores (_)".
	// https://docs.aws.amazon.com/sns/latest/api/API_PublishBatchRequestEntry.html
	entryID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,80}$`)
	// "up to 128 alphanumeric characters … and punctuation".
	// https://docs.aws.amazon.com/sns/latest/api/API_PublishBatchRequestEntry.html
	token = regexp.MustCompile(`^[!-~]{1,128}$`)
	// https://docs.aws.amazon.com/sns/latest/dg/sns-message-attributes.html
	attributeName = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)
	dataType      = regexp.MustCompile(`^(String|String\.Array|Number|Binary)$`)
	// https://docs.aws.amazon.com/sns/latest/api/API_CreateTopic.html
	topicName = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.fifo)?$`)
)

func invalid(format string, a ...any) *Error {
	return &Error{Code: "InvalidParameter", SenderFault: true,
		Message: "Invalid parameter: " + fmt.Sprintf(format, a...)}
}

// size counts the body, the subject, and name, type and value of each attribute.
// https://docs.aws.amazon.com/sns/latest/api/API_MessageAttributeValue.html
func (e Entry) size() int {
	n := len(e.Message) + len(e.Subject)
	for name, a := range e.MessageAttributes {
		n += len(name) + len(a.DataType) + len(a.StringValue) + len(a.BinaryValue)
	}
	return n
}

// checkBatch checks the rules for a whole batch on a topic that takes limit bytes.
// https://docs.aws.amazon.com/sns/latest/api/API_PublishBatch.html#API_PublishBatch_Errors
func checkBatch(entries []batchEntry, limit int) *Error {
	if len(entries) == 0 {
		return &Error{Code: "EmptyBatchRequest", Message: "The batch request doesn't contain any entries."}
	}
	if len(entries) > maxEntries {
		return &Error{Code: "TooManyEntriesInBatchRequest",
			Message: "The batch request contains more entries than permissible (more than 10)."}
	}
	seen, total := map[string]bool{}, 0
	for _, e := range entries {
		if !entryID.MatchString(e.id) {
			return &Error{Code: "InvalidBatchEntryId",
				Message: "The Id of a batch entry in a batch request doesn't abide by the specification."}
		}
		if seen[e.id] {
			return &Error{Code: "BatchEntryIdsNotDistinct",
				Message: "Two or more batch entries in the request have the same Id."}
		}
		seen[e.id] = true
		total += e.size()
	}
	if total > limit {
		return &Error{Code: "BatchRequestTooLong",
			Message: "The length of all the batch messages put together is more than the limit."}
	}
	return nil
}

// checkMessage checks the rules for a message.
// https://docs.aws.amazon.com/sns/latest/api/API_Publish.html
func checkMessage(e batchEntry, fifo bool, limit int) *Error {
	switch {
	case e.Message == "":
		return invalid("Empty message")
	case !utf8.ValidString(e.Message):
		return invalid("Message Reason: must be UTF-8")
	case e.size() > limit:
		return invalid("Message too long")
	case e.hasSubject && !isSubject(e.Subject):
		return invalid("Subject")
	}
	for name, a := range e.MessageAttributes {
		if err := checkAttribute(name, a); err != nil {
			return err
		}
	}
	// A standard topic takes a group, for fair queues.
	switch {
	case fifo && !token.MatchString(e.MessageGroupId):
		return invalid("The MessageGroupId parameter is required for FIFO topics")
	case fifo && !token.MatchString(e.MessageDeduplicationId):
		return invalid("The topic should either have ContentBasedDeduplication enabled or " +
			"MessageDeduplicationId provided explicitly")
	case !fifo && e.MessageDeduplicationId != "":
		return invalid("MessageDeduplicationId Reason: The request includes MessageDeduplicationId parameter " +
			"that is not valid for this topic type")
	}
	return nil
}

// isSubject: "UTF-8 text with no line breaks or control characters, and less than 100 characters
// long"; an older rule, which some regions may still have, wants no space first.
// https://docs.aws.amazon.com/sns/latest/api/API_Publish.html
func isSubject(s string) bool {
	return s != "" && utf8.ValidString(s) && utf8.RuneCountInString(s) < 100 && !strings.HasPrefix(s, " ") &&
		!strings.ContainsFunc(s, unicode.IsControl)
}

// checkAttribute: "Name, type, and value must not be empty or null."
// https://docs.aws.amazon.com/sns/latest/api/API_MessageAttributeValue.html
func checkAttribute(name string, a fakesqs.Attribute) *Error {
	lower := strings.ToLower(name)
	if len(name) > 256 || !attributeName.MatchString(name) || strings.HasPrefix(lower, "aws.") ||
		strings.HasPrefix(lower, "amazon.") {
		return invalid("The message attribute name is not valid")
	}
	if !dataType.MatchString(a.DataType) {
		return invalid("The message attribute '%s' has an invalid message attribute type", name)
	}
	if a.DataType == "Binary" && len(a.BinaryValue) == 0 || a.DataType != "Binary" && a.StringValue == "" {
		return invalid("The message attribute '%s' must contain non-empty message attribute value", name)
	}
	if !utf8.ValidString(a.StringValue) {
		return invalid("The message attribute '%s' must be UTF-8", name)
	}
	return nil
}
