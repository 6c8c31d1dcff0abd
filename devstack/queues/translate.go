package queues

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/outflowhq/outflow/devstack/ports"
)

const (
	jsonProtocol = "application/x-amz-json-1.0"
	maxRequest   = 8 << 20 // a full batch of 1 MiB, escaped as badly as JSON can
)

// tableChanging are the actions that write goaws's table of queues, or a queue's settings, which
// every other action reads without a lock.
var tableChanging = map[string]bool{"CreateQueue": true, "DeleteQueue": true, "SetQueueAttributes": true}

// translator stands in front of goaws.
type translator struct {
	goaws  http.Handler
	sns    http.Handler
	tables sync.RWMutex             // held for writing by table-changing actions, for reading by all others
	waits  map[string]time.Duration // by queue, taken over from goaws: see queueWait
}

func (t *translator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		http.Error(w, "reading the request: "+err.Error(), http.StatusBadRequest)
		return
	}
	action, isJSON := actionOf(r, body)
	if action == "" && r.URL.Path != "/health" {
		http.Error(w, "no action is named", http.StatusBadRequest) // goaws would panic
		return
	}
	if !isJSON && isSNS(action) {
		r.Body = io.NopCloser(bytes.NewReader(body))
		t.sns.ServeHTTP(w, r)
		return
	}
	if isJSON && action == "ReceiveMessage" {
		var alive bool
		if body, alive = t.longPoll(r, body); !alive {
			return
		}
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	answer := httptest.NewRecorder()
	t.forward(action, answer, r)

	payload := answer.Body.Bytes()
	header := w.Header()
	for name, values := range answer.Header() {
		header[name] = values
	}
	switch {
	case isJSON && answer.Code >= http.StatusBadRequest:
		payload = translateError(header, action, payload)
	case answer.Code < http.StatusBadRequest:
		payload = translateAnswer(action, payload)
	}
	header.Del("Content-Length")
	w.WriteHeader(answer.Code)
	_, _ = w.Write(payload) // a client that left needs no answer
}

func (t *translator) forward(action string, w http.ResponseWriter, r *http.Request) {
	if tableChanging[action] {
		t.tables.Lock()
		defer t.tables.Unlock()
	} else {
		t.tables.RLock()
		defer t.tables.RUnlock()
	}
	t.goaws.ServeHTTP(w, r)
}

// actionOf reads the action's name: SQS's SDKs name it in a header, SNS's in a form.
func actionOf(r *http.Request, body []byte) (action string, isJSON bool) {
	if r.Header.Get("Content-Type") == jsonProtocol {
		_, action, _ = strings.Cut(r.Header.Get("X-Amz-Target"), ".")
		return action, true
	}
	if form, err := url.ParseQuery(string(body)); err == nil && form.Get("Action") != "" {
		return form.Get("Action"), false
	}
	return r.URL.Query().Get("Action"), false
}

// members are the names that goaws gives the parts of a batch's answer, and what SQS calls them.
var members = map[string]string{"SendMessageBatchResultEntry": "Successful", "BatchResultErrorEntry": "Failed",
	"DeleteMessageBatchResultEntry": "Successful"}

func translateAnswer(action string, payload []byte) []byte {
	switch action {
	case "CreateQueue", "GetQueueUrl", "ListQueues":
		// goaws puts the region before the host, which makes a name of 127.0.0.1 that nothing
		// resolves.
		return bytes.ReplaceAll(payload, []byte("http://"+Region+"."+ports.Loopback+":"),
			[]byte("http://"+ports.Loopback+":"))
	case "SendMessageBatch", "DeleteMessageBatch":
		var answer map[string]json.RawMessage
		if json.Unmarshal(payload, &answer) != nil {
			return payload
		}
		for theirs, sqs := range members {
			if value, ok := answer[theirs]; ok {
				delete(answer, theirs)
				answer[sqs] = value
			}
		}
		return mustMarshal(answer)
	}
	return payload
}

// sqsErrors maps goaws's codes to the shapes of SQS's JSON protocol. A code that is not here keeps
// its name.
var sqsErrors = map[string]string{
	"AWS.SimpleQueueService.NonExistentQueue":             "QueueDoesNotExist",
	"AWS.SimpleQueueService.QueueExists":                  "QueueNameExists",
	"AWS.SimpleQueueService.TooManyEntriesInBatchRequest": "TooManyEntriesInBatchRequest",
	"AWS.SimpleQueueService.BatchEntryIdsNotDistinct":     "BatchEntryIdsNotDistinct",
	"AWS.SimpleQueueService.EmptyBatchRequest":            "EmptyBatchRequest",
	"AWS.SimpleQueueService.MessageNotInFlight":           "MessageNotInflight",
	"InvalidParameterValue":                               "InvalidParameterValue",
}

// translateError gives an error the form that SDKs make a typed error of: the shape in __type, and
// the old code in a header, as https://smithy.io/2.0/aws/protocols/aws-query-protocol.html
// (awsQueryCompatible) describes.
func translateError(header http.Header, action string, payload []byte) []byte {
	var answer struct{ Type, Code, Message string }
	if json.Unmarshal(payload, &answer) != nil || answer.Code == "" {
		return payload
	}
	if action == "GetQueueAttributes" && strings.HasSuffix(answer.Code, "InvalidParameterValue") {
		answer.Code = "AWS.SimpleQueueService.NonExistentQueue" // the one reason goaws gives that code for here
	}
	shape, known := sqsErrors[answer.Code]
	if !known {
		shape = answer.Code[strings.LastIndexByte(answer.Code, '.')+1:]
	}
	header.Set("X-Amzn-Query-Error", answer.Code+";Sender")
	return mustMarshal(map[string]string{"__type": "com.amazonaws.sqs#" + shape, "message": answer.Message})
}

// mustMarshal encodes maps of strings and of what was decoded before: neither can fail.
func mustMarshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("encoding an answer: %v", err))
	}
	return b
}
