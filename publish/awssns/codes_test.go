package awssns

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/sns/types"
	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/assert"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish/internal/aws"
)

func TestCodesHaveAClass(t *testing.T) {
	const permanent, unavailable, retryable = outflow.ClassPermanent, outflow.ClassUnavailable, outflow.ClassRetryable
	for _, tc := range []struct {
		code   string
		status int
		want   outflow.Class
		why    string
	}{
		{"Throttling", 400, unavailable, "the common throttle"},
		{"Throttled", 429, unavailable, "SNS's own"},
		{"KMSThrottling", 400, unavailable, "KMS throttled SNS"},
		{"AuthorizationError", 403, unavailable, "a policy"},
		{"InvalidClientTokenId", 403, unavailable, "credentials are rotated"},
		{"InvalidSecurity", 403, unavailable, "the endpoint wants HTTPS"},
		{"KMSAccessDenied", 400, unavailable, "the key's policy"},
		{"KMSDisabled", 400, unavailable, "the key can be enabled"},
		{"KMSInvalidState", 400, unavailable, "the key may be pending"},
		{"KMSNotFound", 400, unavailable, "the topic can get another key"},
		{"KMSOptInRequired", 403, unavailable, "the account can subscribe"},
		{"InternalError", 500, unavailable, "by its status"},
		{"InternalError", 0, retryable, "one entry's trouble says nothing of the topic"},
		{"NotFound", 404, permanent, "no such topic"},
		{"InvalidParameter", 400, permanent, "a value that SNS does not take"},
		{"ParameterValueInvalid", 400, permanent, "the same in another spelling"},
		{"BatchRequestTooLong", 400, permanent, "too large"},
		{"", 413, permanent, "a proxy's size limit"},
		{"EndpointDisabled", 400, retryable, "of mobile endpoints: not a topic's"},
		{"SomethingNew", 400, retryable, "unknown, the sender's fault"},
		{"ResourceNotFound", 404, retryable, "of tags: SNS names a missing topic NotFound"},
	} {
		got := service.KindOf(tc.code, tc.status)
		assert.Equal(t, tc.want, got.Class(), "%s %d: %s", tc.code, tc.status, tc.why)
	}
}

// The SDK's errors of PublishBatch carry codes that the table knows, but for those of no topic.
func TestTheSDKsCodesAreKnown(t *testing.T) {
	for _, err := range []smithy.APIError{
		&types.AuthorizationErrorException{}, &types.BatchEntryIdsNotDistinctException{},
		&types.BatchRequestTooLongException{}, &types.EmptyBatchRequestException{},
		&types.InvalidBatchEntryIdException{}, &types.InvalidParameterException{},
		&types.InvalidParameterValueException{}, &types.InvalidSecurityException{}, &types.KMSAccessDeniedException{},
		&types.KMSDisabledException{}, &types.KMSInvalidStateException{}, &types.KMSNotFoundException{},
		&types.KMSOptInRequired{}, &types.KMSThrottlingException{}, &types.NotFoundException{},
		&types.TooManyEntriesInBatchRequestException{}, &types.ValidationException{},
	} {
		assert.NotEqual(t, aws.Unknown, service.KindOf(err.ErrorCode(), 0), err.ErrorCode())
	}
}

func TestPartitions(t *testing.T) {
	for region, want := range map[string]string{
		"eu-west-1": "aws", "us-east-1": "aws", "mx-central-1": "aws", "elasticmq": "aws",
		"cn-north-1": "aws-cn", "us-gov-west-1": "aws-us-gov", "eusc-de-east-1": "aws-eusc",
		"us-iso-east-1": "aws-iso", "us-isob-east-1": "aws-iso-b", "eu-isoe-west-1": "aws-iso-e",
		"us-isof-south-1": "aws-iso-f",
	} {
		assert.Equal(t, "arn:"+want+":sns:"+region+":123456789012:news.fifo", arn(region, "123456789012", "news.fifo"))
	}
}

func TestSubjects(t *testing.T) {
	for s, want := range map[string]bool{
		"Welcome": true, "(1) Åsa 🦉": true, "a": true, `"quoted"`: true,
		"": false, " led by a space": false, "two\nlines": false, "tab\tulated": false, "\x00": false, "\u0085": false,
		"\xff": false, "\u2028": false, "\uFFFF": false,
	} {
		assert.Equal(t, want, isSubject(s), "%q", s)
	}
	ninetyNine := make([]rune, 99)
	for i := range ninetyNine {
		ninetyNine[i] = 'ä'
	}
	assert.True(t, isSubject(string(ninetyNine)))
	assert.False(t, isSubject(string(ninetyNine)+"b"))
}
