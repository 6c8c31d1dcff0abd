package aws

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/outflowhq/outflow"
)

// The names of attributes, which are the wire contract: see package awssqs. They are never
// changed once released.
const (
	AttributeMessageID   = "outflow-message-id"
	AttributeType        = "outflow-type"
	AttributeContentType = "content-type"
	AttributeEncoding    = "outflow-encoding"
	AttributeHeaders     = "outflow-headers"
	AttributeTraceparent = "traceparent"
)

// defaultContentType is what an empty outflow.Message.ContentType means.
const defaultContentType = "application/json"

// Attributes returns the attributes of a message, limit at most. encoding is that of the body,
// or "". Its errors are about the message.
func Attributes(m outflow.Message, encoding string, limit int) (map[string]string, error) {
	values := map[string]string{}
	for _, a := range [...]struct{ name, value string }{
		{AttributeMessageID, m.ID.String()},
		{AttributeType, m.Type},
		{AttributeContentType, cmp.Or(m.ContentType, defaultContentType)},
		{AttributeEncoding, encoding},
	} {
		if !XMLSafe(a.value) {
			return nil, fmt.Errorf("%s has characters that AWS does not allow in an attribute", a.name)
		}
		if a.value != "" { // AWS refuses an empty value
			values[a.name] = a.value
		}
	}
	rest := addOwn(values, m.Headers, limit)
	if len(rest) > 0 {
		object, err := headersJSON(rest)
		if err != nil {
			return nil, err
		}
		values[AttributeHeaders] = object
	}
	return values, nil
}

// addOwn adds the headers that become attributes of their own and returns the others.
// traceparent comes first, then the sorted names, so that the same message always has the same
// attributes.
func addOwn(values, headers map[string]string, limit int) (rest map[string]string) {
	rest = maps.Clone(headers)
	var own []string
	for name, value := range headers {
		if isOwnAttribute(name, value) {
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
	free := limit - len(values)
	if len(headers) > len(own) || len(own) > free {
		free-- // for AttributeHeaders
	}
	for _, name := range own[:min(free, len(own))] {
		values[name] = headers[name]
		delete(rest, name)
	}
	return rest
}

// JSON writers leave these two raw; AWS allows neither.
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
