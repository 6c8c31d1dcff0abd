package awssqs

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/outflowhq/outflow"
)

func TestCodesHaveAClass(t *testing.T) {
	const permanent, unavailable, retryable = outflow.ClassPermanent, outflow.ClassUnavailable, outflow.ClassRetryable
	for _, tc := range []struct {
		code   string
		status int
		want   outflow.Class
		why    string
	}{
		// Throttles: nothing was accepted, and later it may be.
		{"RequestThrottled", 400, unavailable, "SQS's throttle in the JSON protocol"},
		{"AWS.SimpleQueueService.RequestThrottled", 400, unavailable, "in the query protocol"},
		{"ThrottlingException", 400, unavailable, "the common throttle"},
		{"KmsThrottled", 400, unavailable, "KMS throttled SQS"},
		{"KMS.ThrottlingException", 0, unavailable, "the same in a batch's entry"},
		{"OverLimit", 403, unavailable, "a limit that is free again later"},
		{"Whatever", 429, unavailable, "the status says it, whoever answers"},
		// Refusals that an operator corrects, without a change to the message.
		{"AccessDenied", 403, unavailable, "a policy"},
		{"AccessDeniedException", 400, unavailable, "a policy, in the JSON protocol"},
		{"KmsAccessDenied", 400, unavailable, "the key's policy"},
		{"KMS.AccessDeniedException", 0, unavailable, "the same in a batch's entry"},
		{"KmsDisabled", 400, unavailable, "the key can be enabled"},
		{"KmsInvalidState", 400, unavailable, "the key may be pending"},
		{"KmsInvalidKeyUsage", 400, unavailable, "the queue can get another key"},
		{"KmsNotFound", 400, unavailable, "the queue can get another key"},
		{"KmsOptInRequired", 403, unavailable, "the account can subscribe"},
		{"KMS.OptInRequired", 0, unavailable, "the older spelling"},
		{"InvalidClientTokenId", 403, unavailable, "credentials are rotated"},
		{"UnrecognizedClientException", 400, unavailable, "the same in the JSON protocol"},
		{"ExpiredToken", 403, unavailable, "credentials are refreshed"},
		{"SignatureDoesNotMatch", 403, unavailable, "a clock or a secret is corrected"},
		{"InvalidSecurity", 403, unavailable, "the endpoint wants HTTPS"},
		{"InvalidAddress", 404, unavailable, "the endpoint is another region's"},
		// Servers in trouble.
		{"ServiceUnavailable", 503, unavailable, "by its code"},
		{"InternalFailure", 500, unavailable, "by its status"},
		{"", 502, unavailable, "a proxy in front"},
		{"InternalError", 0, retryable, "one entry's trouble says nothing of the queue"},
		// The queue.
		{"QueueDoesNotExist", 400, permanent, "the shape's name"},
		{"AWS.SimpleQueueService.NonExistentQueue", 400, permanent, "the query protocol's"},
		{"com.amazonaws.sqs#QueueDoesNotExist", 400, permanent, "with its namespace"},
		// Content.
		{"InvalidMessageContents", 400, permanent, "characters"},
		{"InvalidParameterValue", 400, permanent, "a value that SQS does not take"},
		{"MissingParameter", 400, permanent, "an empty body"},
		{"BatchRequestTooLong", 400, permanent, "too large"},
		{"AWS.SimpleQueueService.BatchRequestTooLong", 400, permanent, "in the query protocol"},
		{"EmptyBatchRequest", 400, permanent, "not understood as sent"},
		{"SerializationException", 400, permanent, "not understood as sent"},
		{"", 413, permanent, "a proxy's size limit"},
		// An unknown code is never permanent.
		{"SomethingNew", 400, retryable, "unknown, the sender's fault"},
		{"SomethingNew", 0, retryable, "unknown, in a batch's entry"},
		{"", 400, retryable, "no code"},
		{"ResourceNotFoundException", 400, retryable, "not the queue: SQS names that QueueDoesNotExist"},
	} {
		got := service.KindOf(tc.code, tc.status)
		assert.Equal(t, tc.want, got.Class(), "%s %d: %s", tc.code, tc.status, tc.why)
	}
}

// A code is looked up without the service's prefix.
func TestCodesAreListedInTheirPlainForm(t *testing.T) {
	for code, kind := range service.Codes {
		assert.Equal(t, kind, service.KindOf(service.CodePrefix+code, 0), code)
	}
}
