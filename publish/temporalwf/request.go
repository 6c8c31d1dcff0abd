package temporalwf

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"slices"
	"strings"
	"unicode/utf8"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/sdk/converter"

	"github.com/outflowhq/outflow"
)

// request is a message in Temporal's terms.
type request struct {
	workflow
	workflowID, messageID, signal, identity string
	useExisting                             bool
	payload                                 *commonpb.Payloads
	header                                  *commonpb.Header
	memo                                    *commonpb.Memo
}

// encode makes a message's request. Its errors are about the message.
func (p *Publisher) encode(m outflow.Message, d outflow.Destination, w workflow) (*request, error) {
	id, err := workflowIDOf(m, d.Signal != "")
	if err != nil {
		return nil, err
	}
	if why := p.reserved.refusalOfID(id); why != "" {
		return nil, errors.New(why)
	}
	payload, err := p.payloadOf(m)
	if err != nil {
		return nil, err
	}
	header, err := headerOf(m)
	if err != nil {
		return nil, err
	}
	return &request{
		workflow: w, workflowID: id, messageID: m.ID.String(), signal: d.Signal, identity: p.identity,
		useExisting: d.UseExisting, payload: payload, header: &commonpb.Header{Fields: header},
		memo: &commonpb.Memo{Fields: map[string]*commonpb.Payload{
			HeaderMessageID: header[HeaderMessageID], HeaderType: header[HeaderType],
		}},
	}, nil
}

// payloadOf returns the workflow's or the signal's one argument.
func (p *Publisher) payloadOf(m outflow.Message) (*commonpb.Payloads, error) {
	encoding := converter.MetadataEncodingBinary
	// A content type that can't be read is no JSON.
	if kind, _, _ := mime.ParseMediaType(m.ContentType); kind == "application/json" || m.ContentType == "" {
		// A workflow whose input can't be decoded fails, or tries for ever.
		if !utf8.Valid(m.Payload) || !json.Valid(m.Payload) {
			return nil, errors.New("the content type is application/json, and the payload is no JSON in UTF-8")
		}
		encoding = converter.MetadataEncodingJSON
	}
	payload := &commonpb.Payload{
		Metadata: map[string][]byte{converter.MetadataEncoding: []byte(encoding)}, Data: m.Payload,
	}
	if p.converter == nil {
		return &commonpb.Payloads{Payloads: []*commonpb.Payload{payload}}, nil
	}
	encoded, err := p.converter.ToPayloads(converter.NewRawValue(payload))
	if err != nil {
		return nil, errors.New("the data converter refused the payload") // its words may quote the payload
	}
	return encoded, nil
}

// headerOf returns the Temporal header: the message's own headers but the workflow's ID, and what
// HeaderMessageID and its neighbours name.
func headerOf(m outflow.Message) (map[string]*commonpb.Payload, error) {
	contentType := m.ContentType
	if contentType == "" {
		contentType = "application/json"
	}
	fields := map[string]*commonpb.Payload{}
	for name, value := range m.Headers {
		lower := strings.ToLower(name)
		switch {
		case lower == workflowIDHeader:
		case lower == headerTrace || strings.HasPrefix(lower, "__temporal"):
			return nil, fmt.Errorf("header %q is Temporal's own", name)
		case !utf8.ValidString(value): // JSON has no way to carry it
			return nil, fmt.Errorf("header %q is not valid UTF-8", name)
		default:
			fields[name] = text(value)
		}
	}
	fields[HeaderMessageID], fields[HeaderType] = text(m.ID.String()), text(m.Type)
	fields[HeaderContentType] = text(contentType)
	if m.OrderingKey != "" {
		fields[HeaderOrderingKey] = text(m.OrderingKey)
	}
	trace := map[string]string{}
	for _, name := range []string{"traceparent", "tracestate"} {
		if value := m.Headers[name]; value != "" {
			trace[name] = value
		}
	}
	if trace["traceparent"] != "" {
		fields[headerTrace] = jsonPayload(trace)
	}
	return fields, nil
}

// text is a string as every SDK's default converter writes it, whatever codec the payloads have:
// so Temporal's Web UI shows it.
func text(s string) *commonpb.Payload { return jsonPayload(s) }

// jsonPayload encodes a string or a map of strings, which encoding/json never refuses.
func jsonPayload(value any) *commonpb.Payload {
	data, err := json.Marshal(value)
	if err != nil {
		data = []byte("null")
	}
	return &commonpb.Payload{
		Metadata: map[string][]byte{converter.MetadataEncoding: []byte(converter.MetadataEncodingJSON)}, Data: data,
	}
}

// isOf reports whether a run's memo names a message.
func isOf(memo *commonpb.Memo, messageID string) bool {
	field := memo.GetFields()[HeaderMessageID]
	return field != nil && slices.Equal(field.GetData(), text(messageID).GetData())
}
