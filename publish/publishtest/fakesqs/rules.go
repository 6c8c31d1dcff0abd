package fakesqs

import (
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

// The rules of a message and a batch.
const (
	// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html
	maxEntries    = 10
	maxAttributes = 10
	// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html
	maxBytes = 1_048_576
)

var (
	// "A batched message ID can have up to 80 characters … alphanumeric characters, hyphens (-),
	// and underscores (_)."
	// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html
	entryID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,80}$`)
	// Up to 128 alphanumeric characters and punctuation.
	// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html
	token = regexp.MustCompile(`^[!-~]{1,128}$`)
	// Letters, digits, _, - and periods, none of them first, last or doubled.
	// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-message-metadata.html
	attributeName = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)
	dataType      = regexp.MustCompile(`^(String|Number|Binary)(\..+)?$`)
	// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-queues.html
	queueName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,80}$`)
)

func invalid(format string, a ...any) *Error {
	return &Error{Code: "InvalidParameterValue", SenderFault: true, Message: fmt.Sprintf(format, a...)}
}

// checkBatch checks the rules for a whole batch.
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html#API_SendMessageBatch_Errors
func checkBatch(entries []sendEntry) *Error {
	if len(entries) == 0 {
		return batchError("EmptyBatchRequest",
			"There should be at least one SendMessageBatchRequestEntry in the request.")
	}
	if len(entries) > maxEntries {
		return batchError("TooManyEntriesInBatchRequest",
			"Maximum number of entries per request are 10. You have sent %d.", len(entries))
	}
	seen, total := map[string]bool{}, 0
	for _, e := range entries {
		if !entryID.MatchString(e.Id) {
			return batchError("InvalidBatchEntryId",
				"A batch entry id can only contain alphanumeric characters, hyphens and underscores, at most 80.")
		}
		if seen[e.Id] {
			return batchError("BatchEntryIdsNotDistinct", "Id %s repeated.", e.Id)
		}
		seen[e.Id] = true
		total += e.size()
	}
	if total > maxBytes {
		return batchError("BatchRequestTooLong",
			"Batch requests cannot be longer than %d bytes. You have sent %d bytes.", maxBytes, total)
	}
	return nil
}

func batchError(code, format string, a ...any) *Error {
	return &Error{Code: code, QueryCode: "AWS.SimpleQueueService." + code, Message: fmt.Sprintf(format, a...)}
}

// checkMessage checks the rules for a message.
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-message-metadata.html
func checkMessage(e Entry, fifo bool, limit int) *Error {
	if e.MessageBody == "" { // "The minimum size is one character."
		return &Error{Code: "MissingParameter", SenderFault: true,
			Message: "The request must contain the parameter MessageBody."}
	}
	if e.size() > limit {
		return invalid("One or more parameters are invalid. Reason: Message must be shorter than %d bytes.", limit)
	}
	if !allowed(e.MessageBody) {
		return &Error{Code: "InvalidMessageContents", SenderFault: true,
			Message: "Invalid characters found in the MessageBody."}
	}
	if len(e.MessageAttributes) > maxAttributes {
		return invalid("Number of message attributes [%d] exceeds the allowed maximum [%d].", len(e.MessageAttributes),
			maxAttributes)
	}
	for name, a := range e.MessageAttributes {
		if err := checkAttribute(name, a); err != nil {
			return err
		}
	}
	if !fifo {
		if e.MessageDeduplicationId != "" {
			return invalid("The request include parameter MessageDeduplicationId " +
				"which is not valid for this queue type.")
		}
		return nil
	}
	// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/FIFO-queues-understanding-logic.html
	if !token.MatchString(e.MessageGroupId) {
		return invalid("A FIFO queue wants a MessageGroupId of 1 to 128 alphanumeric characters and punctuation.")
	}
	if !token.MatchString(e.MessageDeduplicationId) {
		return invalid("This queue wants a MessageDeduplicationId of 1 to 128 alphanumeric characters and punctuation.")
	}
	return nil
}

func checkAttribute(name string, a Attribute) *Error {
	lower := strings.ToLower(name)
	if len(name) > 256 || !attributeName.MatchString(name) || strings.HasPrefix(lower, "aws.") ||
		strings.HasPrefix(lower, "amazon.") {
		return invalid("The name of a message attribute is not valid.")
	}
	if len(a.DataType) > 256 || !dataType.MatchString(a.DataType) {
		return invalid("The type of message attribute '%s' is invalid.", name)
	}
	if strings.HasPrefix(a.DataType, "Binary") {
		if len(a.BinaryValue) == 0 {
			return invalid("The message attribute '%s' must contain a non-empty value.", name)
		}
		return nil
	}
	if a.StringValue == "" { // "Name, type, value … must not be empty or null."
		return invalid("The message attribute '%s' must contain a non-empty value.", name)
	}
	if !allowed(a.StringValue) {
		return invalid("Invalid characters found in message attribute '%s'.", name)
	}
	return nil
}

// allowed reports whether s has SQS's set of characters only: #x9 | #xA | #xD | #x20 to #xD7FF |
// #xE000 to #xFFFD | #x10000 to #x10FFFF.
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html
func allowed(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		ok := r == 0x9 || r == 0xA || r == 0xD || r >= 0x20 && r <= 0xD7FF || r >= 0xE000 && r <= 0xFFFD || r >= 0x10000
		if !ok {
			return false
		}
	}
	return true
}
