package awssqs

import (
	"net/http"
	"strings"

	"github.com/outflowhq/outflow"
)

// verdict is what an error code means.
type verdict struct {
	class outflow.Class
	// throttle: nothing was accepted, and a little later it may be.
	throttle bool
	// content: somebody's content is at fault. For a batch of several it says
	// nothing of any one of them.
	content bool
	// gone: the queue does not exist under this URL. The failure wraps
	// outflow.ErrNoDestination.
	gone bool
	// quotes: AWS's text may quote the message, and is left out.
	quotes bool
	// next is what an operator can do.
	next string
}

var (
	throttled = verdict{class: outflow.ClassUnavailable, throttle: true,
		next: "it is retried; ask AWS for a higher quota if it stays"}
	denied = verdict{class: outflow.ClassUnavailable,
		next: "allow sqs:GetQueueUrl and sqs:SendMessage in the sender's policy and the queue's"}
	unknownCaller = verdict{class: outflow.ClassUnavailable,
		next: "check the AWS credentials, the region and this host's clock"}
	refusedKey = verdict{class: outflow.ClassUnavailable,
		next: "allow kms:GenerateDataKey and kms:Decrypt on the queue's key, and see that the key is enabled"}
	wrongEndpoint = verdict{class: outflow.ClassUnavailable,
		next: "check the region, the account and the endpoint"}
	down = verdict{class: outflow.ClassUnavailable,
		next: "it is retried; see AWS's health page if it stays"}
	missing = verdict{class: outflow.ClassPermanent, gone: true,
		next: "create the queue, or check name, region, account and the permission to see it; then retry or redirect the message"}
	badContent = verdict{class: outflow.ClassPermanent, content: true, quotes: true,
		next: "correct the message and enqueue it again, or redirect it"}
	unknown = verdict{class: outflow.ClassRetryable, quotes: true,
		next: "it is retried; look the code up at AWS if it stays"}

	// The verdicts on what is no answer of SQS.
	noCredentials = verdict{class: outflow.ClassUnavailable,
		next: "nothing was sent; check the AWS credentials of this process"}
	unreachable = verdict{class: outflow.ClassUnavailable,
		next: "nothing was sent; check the endpoint, the region and the network"}
	// The destination as a whole does not answer. SQS may have accepted the
	// messages; nobody sends them again within the same call.
	unanswered = verdict{class: outflow.ClassUnavailable,
		next: "SQS may have accepted it; it is sent again with the same message ID"}
	// A request that panicked. The failure has words of its own.
	panicked = verdict{class: outflow.ClassPermanent, content: true}
)

// verdicts is the one place where AWS's codes become classes. A code has up to
// three spellings: the shape's name (JSON protocol), the older one (query
// protocol; the SDK prefers it where SQS sends both) and one in a batch's
// result. Sources:
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html#API_SendMessageBatch_Errors
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html#API_SendMessage_Errors
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/CommonErrors.html
var verdicts = map[string]verdict{
	// "The request was denied due to request throttling", in SQS's and the
	// common spellings.
	"RequestThrottled": throttled, "RequestThrottledException": throttled,
	"Throttling": throttled, "ThrottlingException": throttled,
	"Throttled": throttled, "ThrottledException": throttled,
	"TooManyRequestsException": throttled, "RequestLimitExceeded": throttled, "SlowDown": throttled,
	// KMS, which SQS asks for the queue's data key, throttled SQS.
	"KmsThrottled": throttled, "KMS.ThrottlingException": throttled,
	// "The specified action violates a limit": it does not later.
	"OverLimit": throttled,

	// Somebody will mend the policy; the messages wait for it.
	"AccessDenied": denied, "AccessDeniedException": denied, "NotAuthorized": denied, "UnauthorizedOperation": denied,

	// The caller is not known, or no longer: credentials are rotated and clocks
	// corrected.
	"InvalidClientTokenId": unknownCaller, "UnrecognizedClientException": unknownCaller,
	"InvalidAccessKeyId": unknownCaller, "OptInRequired": unknownCaller,
	"ExpiredToken": unknownCaller, "ExpiredTokenException": unknownCaller, "RequestExpired": unknownCaller,
	"SignatureDoesNotMatch": unknownCaller, "InvalidSignatureException": unknownCaller,
	"RequestTimeTooSkewed": unknownCaller, "IncompleteSignature": unknownCaller, "IncompleteSignatureException": unknownCaller,
	"MissingAuthenticationToken": unknownCaller, "MissingAuthenticationTokenException": unknownCaller,
	"InvalidSecurity": unknownCaller, // not HTTPS, or not Signature Version 4

	// The queue's key refuses; somebody will mend it.
	"KmsAccessDenied": refusedKey, "KMS.AccessDeniedException": refusedKey,
	"KmsDisabled": refusedKey, "KMS.DisabledException": refusedKey,
	"KmsInvalidState": refusedKey, "KMS.InvalidStateException": refusedKey,
	"KmsInvalidKeyUsage": refusedKey, "KMS.InvalidKeyUsageException": refusedKey,
	"KmsNotFound": refusedKey, "KMS.NotFoundException": refusedKey,
	"KmsOptInRequired": refusedKey, "KMS.OptInRequired": refusedKey,

	// The address does not belong to this endpoint: configuration, not content.
	"InvalidAddress": wrongEndpoint,

	"ServiceUnavailable": down, "ServiceUnavailableException": down,

	// Only the queue itself: AWS also answers so where the sender may not see it.
	"QueueDoesNotExist": missing, "NonExistentQueue": missing,

	// Characters, sizes and values that no later attempt changes.
	"InvalidMessageContents": badContent, "InvalidParameterValue": badContent, "InvalidParameterValueException": badContent,
	"InvalidParameterCombination": badContent, "MissingParameter": badContent,
	"InvalidAttributeName": badContent, "InvalidAttributeValue": badContent,
	"ValidationError": badContent, "ValidationException": badContent, "SerializationException": badContent,
	// Too much at once: no verdict on any entry until it is refused alone.
	"BatchRequestTooLong": badContent, "TooManyEntriesInBatchRequest": badContent,
	"EmptyBatchRequest": badContent, "BatchEntryIdsNotDistinct": badContent, "InvalidBatchEntryId": badContent,
}

// judge returns the verdict on an error code and an HTTP status, 0 for an entry
// of a batch. A code that nobody knows is never permanent.
func judge(code string, status int) verdict {
	if v, ok := verdicts[plainCode(code)]; ok {
		return v
	}
	switch {
	case status == http.StatusTooManyRequests:
		return throttled
	case status == http.StatusRequestEntityTooLarge: // a proxy's limit
		return badContent
	case status >= 500:
		return down
	}
	return unknown
}

// plainCode strips what surrounds a code: a namespace, and the service's prefix
// of the query protocol.
func plainCode(code string) string {
	if i := strings.LastIndexByte(code, '#'); i >= 0 {
		code = code[i+1:]
	}
	return strings.TrimPrefix(code, "AWS.SimpleQueueService.")
}
