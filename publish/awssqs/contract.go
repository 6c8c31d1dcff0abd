package awssqs

import "github.com/outflowhq/outflow/publish/internal/aws"

// The wire contract: how a message looks in a queue, for consumers in any language. Names are
// never changed once released. Every attribute has the data type String.
const (
	// AttributeMessageID is the message's UUID; consumers deduplicate by it.
	AttributeMessageID = aws.AttributeMessageID
	// AttributeType is the message's type, such as "user-registered".
	AttributeType = aws.AttributeType
	// AttributeContentType is the media type of the payload.
	AttributeContentType = aws.AttributeContentType
	// AttributeEncoding is there only where the body is not the payload itself; its one value
	// is EncodingBase64.
	AttributeEncoding = aws.AttributeEncoding
	// AttributeHeaders is a JSON object of those headers that are no attributes of their own:
	// there are too many, or the name or the value can't be an attribute. Its characters
	// outside of SQS's set are escaped as JSON allows.
	AttributeHeaders = aws.AttributeHeaders
	// AttributeTraceparent is the header of W3C Trace Context. It stays an attribute of its
	// own however many headers there are.
	AttributeTraceparent = aws.AttributeTraceparent

	// EncodingBase64 says that the body is the payload in standard base64 with padding
	// (RFC 4648, section 4).
	EncodingBase64 = aws.EncodingBase64
)

// maxBytes is the most bytes of one message, and of all messages of one batch together: 1 MiB.
// Body, and name, type and value of each attribute count.
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html
const maxBytes = 1_048_576
