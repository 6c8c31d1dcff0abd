package awssns

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/sns"

	"github.com/outflowhq/outflow/publish/internal/aws"
)

// service says what SNS has of its own. A code has the spelling of the query protocol, which SNS
// speaks.
// https://docs.aws.amazon.com/sns/latest/api/API_PublishBatch.html#API_PublishBatch_Errors
var service = &aws.Service{
	Name: "SNS", ID: sns.ServiceID, Destination: "topic",
	Actions:    "sns:Publish",
	CodePrefix: "AWS.SimpleNotificationService.",
	Codes: aws.CodesWith(map[string]aws.Kind{
		"AuthorizationError": aws.Denied,
		"InvalidSecurity":    aws.UnknownCaller,

		// KMS, which SNS asks for the topic's data key, throttled SNS.
		"KMSThrottling": aws.Throttled,

		"KMSAccessDenied":  aws.KeyRefused,
		"KMSDisabled":      aws.KeyRefused,
		"KMSInvalidState":  aws.KeyRefused,
		"KMSNotFound":      aws.KeyRefused,
		"KMSOptInRequired": aws.KeyRefused,

		"NotFound": aws.Missing,

		// Sizes, characters and values that no later attempt changes; but see misplaced.
		"InvalidParameter":      aws.Content,
		"ParameterValueInvalid": aws.Content,
		// Too much at once: it says nothing about any entry until that is refused alone.
		"BatchRequestTooLong":          aws.Content,
		"TooManyEntriesInBatchRequest": aws.Content,
		"EmptyBatchRequest":            aws.Content,
		"BatchEntryIdsNotDistinct":     aws.Content,
		"InvalidBatchEntryId":          aws.Content,
	}),
	Parameters: []string{
		"TopicArn", "MessageAttributes", "MessageGroupId", "MessageDeduplicationId", "MaximumMessageSize", "Subject",
		"Message", "attribute",
	},
	Refine:   misplaced,
	TooLarge: tooLargeForTopic,
}

// misplaced corrects the kind of an invalid parameter that is the topic's ARN. So SNS answers where
// the endpoint is another region's, which is no fault of the message.
func misplaced(k aws.Kind, said string) aws.Kind {
	if k == aws.Content && strings.HasPrefix(said, "Invalid parameter: TopicArn") {
		return aws.WrongEndpoint
	}
	return k
}

// tooLong is how SNS says that a message, or a batch, exceeds its topic's MaximumMessageSize. It
// names no limit.
var tooLong = regexp.MustCompile(`(?i)too long|longer than|more than the limit`)

// tooLargeForTopic is aws.Service's TooLarge.
func tooLargeForTopic(said string, size int) (detail, advice string, ok bool) {
	if !tooLong.MatchString(said) {
		return "", "", false
	}
	detail = fmt.Sprintf("the message has %d bytes with its attributes and encoding, and the topic takes fewer", size)
	advice = fmt.Sprintf("raise the topic's MaximumMessageSize, %d unless it is set and at most %d, "+
		"and retry the message; or enqueue a reference to the content instead", defaultMaxBytes, maxBytes)
	return detail, advice, true
}
