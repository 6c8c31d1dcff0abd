package awssqs

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
)

// encode turns m into the entry of a batch, without the entry's ID, for a FIFO
// or a standard queue. Its errors are about the message: all are permanent.
func encode(m outflow.Message, fifo bool) (types.SendMessageBatchRequestEntry, error) {
	var e types.SendMessageBatchRequestEntry
	if m.ID == uuid.Nil {
		return e, errors.New("the message has no ID")
	}
	if len(m.Payload) == 0 {
		return e, errors.New("the payload is empty; SQS wants at least one byte")
	}
	body, encoding := string(m.Payload), ""
	if !xmlSafe(body) {
		body, encoding = base64.StdEncoding.EncodeToString(m.Payload), EncodingBase64
	}
	attributes, err := attributesOf(m, encoding)
	if err != nil {
		return e, err
	}
	e.MessageBody = &body
	e.MessageAttributes = attributes
	if fifo {
		id := m.ID.String()
		// Each message without an ordering key is a group of its own: it waits
		// for nobody.
		group := id
		if m.OrderingKey != "" {
			group = m.OrderingKey
		}
		e.MessageGroupId, e.MessageDeduplicationId = &group, &id
	}
	return e, nil
}

func attributesOf(m outflow.Message, encoding string) (map[string]types.MessageAttributeValue, error) {
	contentType := m.ContentType
	if contentType == "" {
		contentType = defaultContentType
	}
	values := map[string]string{}
	for name, value := range map[string]string{
		AttributeMessageID:   m.ID.String(),
		AttributeType:        m.Type,
		AttributeContentType: contentType,
		AttributeEncoding:    encoding,
	} {
		if !xmlSafe(value) {
			return nil, fmt.Errorf("%s has characters that SQS does not allow in an attribute", name)
		}
		if value != "" { // SQS refuses an empty value
			values[name] = value
		}
	}
	rest := addOwn(values, m.Headers)
	if len(rest) > 0 {
		object, err := headersJSON(rest)
		if err != nil {
			return nil, err
		}
		values[AttributeHeaders] = object
	}
	attributes := make(map[string]types.MessageAttributeValue, len(values))
	for name, value := range values {
		attributes[name] = types.MessageAttributeValue{DataType: aws.String(attributeType), StringValue: aws.String(value)}
	}
	return attributes, nil
}

// addOwn adds the headers that become attributes of their own and returns the
// others. traceparent comes first, then the sorted names, so that the same
// message always looks the same.
func addOwn(values, headers map[string]string) (rest map[string]string) {
	rest = maps.Clone(headers)
	var own []string
	for name, value := range headers {
		if ownAttribute(name, value) {
			own = append(own, name)
		}
	}
	slices.SortFunc(own, func(a, b string) int {
		if (a == AttributeTraceparent) != (b == AttributeTraceparent) {
			if a == AttributeTraceparent {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	free := maxAttributes - len(values)
	if len(headers) > len(own) || len(own) > free {
		free-- // for AttributeHeaders
	}
	for _, name := range own[:min(free, len(own))] {
		values[name] = headers[name]
		delete(rest, name)
	}
	return rest
}

// JSON writers leave these two raw; SQS allows neither.
var escapeNonCharacters = strings.NewReplacer("\uFFFE", `\ufffe`, "\uFFFF", `\uffff`)

func headersJSON(headers map[string]string) (string, error) {
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		// JSON has no way to carry it, and the writer would replace it silently.
		if !utf8.ValidString(name) || !utf8.ValidString(headers[name]) {
			return "", fmt.Errorf("header %q is not valid UTF-8", name)
		}
	}
	var b bytes.Buffer
	w := json.NewEncoder(&b)
	w.SetEscapeHTML(false)
	if err := w.Encode(headers); err != nil { // names are sorted
		return "", fmt.Errorf("writing the headers as JSON: %w", err)
	}
	return escapeNonCharacters.Replace(strings.TrimSuffix(b.String(), "\n")), nil
}

// sizeOf returns what AWS counts of a message: the body, and the name, the type
// and the value of each attribute.
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-message-metadata.html
func sizeOf(e types.SendMessageBatchRequestEntry) int {
	size := len(aws.ToString(e.MessageBody))
	for name, a := range e.MessageAttributes {
		size += len(name) + len(aws.ToString(a.DataType)) + len(aws.ToString(a.StringValue))
	}
	return size
}
