package webhook

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
)

// headersOf returns the headers of a request: those of given that HTTP carries under their own
// names, the others as HeaderHeaders, the content type, and the headers of every request to the
// host, whose names no message may use.
func headersOf(contentType string, given map[string]string, always []Header) (http.Header, error) {
	contentType = cmp.Or(contentType, defaultContentType)
	if !plainValue(contentType) {
		return nil, errors.New("the content type has characters that HTTP does not allow in a header")
	}
	header := http.Header{}
	spellings := map[string]int{} // how many names differ in case only
	for _, h := range always {
		spellings[strings.ToLower(h.name)]++
	}
	for name := range given {
		spellings[strings.ToLower(name)]++
	}
	rest := map[string]string{}
	for name, value := range given {
		if spellings[strings.ToLower(name)] == 1 && isOwnHeader(name, value) {
			header.Set(name, value)
		} else {
			rest[name] = value
		}
	}
	if len(rest) > 0 {
		object, err := asciiJSON(rest)
		if err != nil {
			return nil, err
		}
		header.Set(HeaderHeaders, object)
	}
	header.Set(headerContentType, contentType)
	header.Set("User-Agent", userAgent)
	for _, h := range always {
		header.Set(h.name, h.value())
	}
	return header, nil
}

// isOwnHeader reports whether a header travels under its own name.
func isOwnHeader(name, value string) bool {
	return ownName.MatchString(name) && !reserved(name) && plainValue(value)
}

func asciiJSON(headers map[string]string) (string, error) {
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		// JSON has no way to carry it, and the writer would replace it silently.
		if !utf8.ValidString(name) || !utf8.ValidString(headers[name]) {
			return "", fmt.Errorf("header %q is not valid UTF-8", name)
		}
	}
	object, err := json.Marshal(headers) // names are sorted
	if err != nil {
		return "", fmt.Errorf("writing the headers as JSON: %w", err)
	}
	var ascii bytes.Buffer
	for _, r := range string(object) {
		switch {
		case r < 0x7f:
			ascii.WriteRune(r)
		case r <= 0xffff:
			fmt.Fprintf(&ascii, `\u%04x`, r)
		default:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&ascii, `\u%04x\u%04x`, high, low)
		}
	}
	return ascii.String(), nil
}

// ErrNotOutflow says that a request carries no message ID of Outflow's: another sender sent it, or
// it is no message.
var ErrNotOutflow = errors.New("no " + HeaderID + " with a message ID")

// Decode returns the message that was posted: ID, Type, ContentType, Headers, OrderingKey and
// Payload. The other fields stay in the outbox and are zero. HTTP names have no case: Headers has
// them in lower case, together with those that proxies have added on the way.
//
// It verifies nothing: do that first, with a library of Standard Webhooks. The signature covers
// the ID and the payload, and no other header.
func Decode(header http.Header, body []byte) (outflow.Message, error) {
	text := header.Get(HeaderID)
	if text == "" {
		return outflow.Message{}, ErrNotOutflow
	}
	id, err := uuid.Parse(text)
	if err == nil && id == uuid.Nil {
		err = errors.New("it is the zero UUID")
	}
	if err != nil {
		return outflow.Message{}, fmt.Errorf("%w: %w", ErrNotOutflow, err)
	}
	m := outflow.Message{
		ID: id, Type: header.Get(HeaderType), ContentType: header.Get(headerContentType),
		OrderingKey: header.Get(HeaderOrderingKey), Payload: body,
	}
	values := map[string]string{}
	for name := range header {
		if !reserved(name) {
			values[strings.ToLower(name)] = header.Get(name)
		}
	}
	if object := header.Get(HeaderHeaders); object != "" {
		if err := json.Unmarshal([]byte(object), &values); err != nil {
			return outflow.Message{}, fmt.Errorf("decoding message %s: reading %s: %w", id, HeaderHeaders, err)
		}
	}
	if len(values) > 0 {
		m.Headers = values
	}
	return m, nil
}
