package queues

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/Admiral-Piett/goaws/app/models"
)

const pollEvery = 20 * time.Millisecond

// longPoll waits, up to the request's WaitTimeSeconds or else the queue's, until there is a message
// to take, and returns the request with no wait left in it: goaws would wait inside, holding the
// lock that guards its tables. It returns false when the client has left, for whom no message may
// be taken.
func (t *translator) longPoll(r *http.Request, body []byte) ([]byte, bool) {
	var request map[string]any
	if json.Unmarshal(body, &request) != nil {
		return body, true
	}
	queueURL, _ := request["QueueUrl"].(string)
	name := queueURL[strings.LastIndexByte(queueURL, '/')+1:]
	wait := t.queueWait(name)
	if seconds, given := request["WaitTimeSeconds"].(float64); given {
		wait = time.Duration(seconds * float64(time.Second))
	}
	delete(request, "WaitTimeSeconds")
	deadline := time.NewTimer(wait)
	defer deadline.Stop()
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	for wait > 0 && !hasVisible(name) {
		select {
		case <-r.Context().Done():
			return nil, false
		case <-deadline.C:
			wait = 0
		case <-poll.C:
		}
	}
	return mustMarshal(request), true
}

// queueWait takes the wait that a queue was created with over from goaws, which would else use it
// by itself.
func (t *translator) queueWait(name string) time.Duration {
	t.tables.Lock()
	defer t.tables.Unlock()
	q := models.SyncQueues.Queues[name]
	if q == nil {
		return 0
	}
	if seconds := q.ReceiveMessageWaitTimeSeconds; seconds > 0 {
		if t.waits == nil {
			t.waits = map[string]time.Duration{}
		}
		t.waits[name] = time.Duration(seconds) * time.Second
		q.ReceiveMessageWaitTimeSeconds = 0
	}
	return t.waits[name]
}

// hasVisible reports whether a receive would return at once: with a message, or with an error
// because the queue is gone.
func hasVisible(name string) bool {
	models.SyncQueues.RLock()
	defer models.SyncQueues.RUnlock()
	q, ok := models.SyncQueues.Queues[name]
	if !ok {
		return true
	}
	for i := range q.Messages {
		m := &q.Messages[i]
		if m.ReceiptHandle == "" && m.IsReadyForReceipt() && !(q.IsFIFO && q.IsLocked(m.GroupID)) {
			return true
		}
	}
	return false
}
