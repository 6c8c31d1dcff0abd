package awssqs

import (
	"fmt"
	"regexp"

	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/outflowhq/outflow/publish/internal/aws"
)

// service says what SQS has of its own. An error code has up to three spellings: the shape's name
// (JSON protocol), the older one (query protocol; the SDK prefers it where SQS sends both) and the
// one in a batch's result.
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html#API_SendMessageBatch_Errors
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html#API_SendMessage_Errors
var service = &aws.Service{
	Name: "SQS", ID: sqs.ServiceID, Destination: "queue",
	Actions:    "sqs:GetQueueUrl and sqs:SendMessage",
	CodePrefix: "AWS.SimpleQueueService.",
	Codes: aws.CodesWith(map[string]aws.Kind{
		"RequestThrottled": aws.Throttled, "RequestThrottledException": aws.Throttled,
		// KMS, which SQS asks for the queue's data key, throttled SQS.
		"KmsThrottled": aws.Throttled, "KMS.ThrottlingException": aws.Throttled,
		// "The specified action violates a limit": it does not later.
		"OverLimit": aws.Throttled,

		"InvalidSecurity": aws.UnknownCaller, // not HTTPS, or not Signature Version 4

		"KmsAccessDenied": aws.KeyRefused, "KMS.AccessDeniedException": aws.KeyRefused,
		"KmsDisabled": aws.KeyRefused, "KMS.DisabledException": aws.KeyRefused,
		"KmsInvalidState": aws.KeyRefused, "KMS.InvalidStateException": aws.KeyRefused,
		"KmsInvalidKeyUsage": aws.KeyRefused, "KMS.InvalidKeyUsageException": aws.KeyRefused,
		"KmsNotFound": aws.KeyRefused, "KMS.NotFoundException": aws.KeyRefused,
		"KmsOptInRequired": aws.KeyRefused, "KMS.OptInRequired": aws.KeyRefused,

		"InvalidAddress": aws.WrongEndpoint,

		// Only the queue itself: SQS also answers so where the sender may not see the queue.
		"QueueDoesNotExist": aws.Missing, "NonExistentQueue": aws.Missing,

		// Characters, sizes and values that no later attempt changes.
		"InvalidMessageContents": aws.Content,
		"InvalidAttributeName":   aws.Content, "InvalidAttributeValue": aws.Content,
		// Too much at once: it says nothing about any entry until that is refused alone.
		"BatchRequestTooLong": aws.Content, "TooManyEntriesInBatchRequest": aws.Content,
		"EmptyBatchRequest": aws.Content, "BatchEntryIdsNotDistinct": aws.Content,
		"InvalidBatchEntryId": aws.Content,
	}),
	Parameters: []string{
		"MessageBody", "MessageAttributes", "MessageAttribute", "MessageGroupId", "MessageDeduplicationId",
		"MaximumMessageSize", "QueueUrl", "attribute",
	},
	TooLarge: tooLargeForQueue,
}

// sizeLimit is how SQS says that a message exceeds its queue's MaximumMessageSize.
var sizeLimit = regexp.MustCompile(`Message must be shorter than (\d{1,9}) bytes`)

// tooLargeForQueue is aws.Service's TooLarge.
func tooLargeForQueue(said string, size int) (detail, advice string, ok bool) {
	limit := sizeLimit.FindStringSubmatch(said)
	if limit == nil {
		return "", "", false
	}
	detail = fmt.Sprintf("the message has %d bytes with its attributes and encoding, and the queue takes %s",
		size, limit[1])
	advice = fmt.Sprintf("raise the queue's MaximumMessageSize, at most %d, and retry the message; "+
		"or enqueue a reference to the content instead", maxBytes)
	return detail, advice, true
}
