package awssqs

// The wire contract: how a message looks in a queue, for consumers in any
// language. Names are never changed once released. Every attribute has the
// data type String.
const (
	// AttributeMessageID is the message's UUID; consumers deduplicate by it.
	AttributeMessageID = "outflow-message-id"
	// AttributeType is the message's type, such as "user-registered".
	AttributeType = "outflow-type"
	// AttributeContentType is the media type of the payload.
	AttributeContentType = "content-type"
	// AttributeEncoding is there only where the body is not the payload
	// itself; its one value is EncodingBase64.
	AttributeEncoding = "outflow-encoding"
	// AttributeHeaders is a JSON object of those headers that are no attributes
	// of their own: there are too many, or the name or the value can't be an
	// attribute. Its characters outside SQS's set are escaped as JSON allows.
	AttributeHeaders = "outflow-headers"
	// AttributeTraceparent is the header of W3C Trace Context. It stays an
	// attribute of its own however many headers there are.
	AttributeTraceparent = "traceparent"

	// EncodingBase64 says that the body is the payload in standard base64 with
	// padding (RFC 4648, section 4).
	EncodingBase64 = "base64"
)

// A header whose name starts so, in any case, is never an attribute of its own:
// the first is Outflow's, the others are AWS's.
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-message-metadata.html
var takenPrefixes = []string{"outflow", "aws.", "amazon."}

const (
	// attributeType is the data type of every attribute; its name counts
	// towards the size of the message.
	attributeType = "String"

	// maxAttributes is how many attributes a message can have.
	// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html
	maxAttributes = 10

	// maxEntries is how many messages one SendMessageBatch can have. Same page.
	maxEntries = 10

	// maxBytes is the most bytes of one message, and of all messages of one
	// batch together: 1 MiB. Body, and name, type and value of each attribute
	// count.
	// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html
	maxBytes = 1_048_576

	// defaultContentType is what an empty outflow.Message.ContentType means.
	defaultContentType = "application/json"
)
