package temporalwf

// What a workflow gets beside its input. Names are never changed once released.
const (
	// HeaderMessageID, HeaderType, HeaderContentType and HeaderOrderingKey are fields of the
	// start's or signal's Temporal header, beside the message's own headers, each a JSON string.
	// The memo of a started run has the first two as well.
	HeaderMessageID   = "outflow-message-id"
	HeaderType        = "outflow-type"
	HeaderContentType = "outflow-content-type"
	// HeaderOrderingKey is absent where the message has no ordering key.
	HeaderOrderingKey = "outflow-ordering-key"
	// headerTrace is where Temporal's SDKs look for the trace context: a JSON object with
	// traceparent and tracestate. It is TracerOptions.HeaderKey's default:
	// https://pkg.go.dev/go.temporal.io/sdk/contrib/opentelemetry#TracerOptions
	headerTrace = "_tracer-data"
)
