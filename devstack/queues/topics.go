package queues

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/outflowhq/outflow/publish/publishtest/fakesns"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

// newTranslator stands before goaws and beside an SNS whose subscriptions lead to goaws's queues.
func newTranslator(goaws http.Handler) *translator {
	t := &translator{goaws: goaws}
	t.sns = &fakesns.Server{Queues: subscribed{t}, Account: Account, Region: Region, Forgets: true}
	return t
}

// isSNS reports whether an action is SNS's, or the one of STS that its publishers need. SQS has no
// actions of these names.
func isSNS(action string) bool {
	return strings.Contains(action, "Topic") || strings.Contains(action, "Subscri") ||
		strings.HasPrefix(action, "Publish") || action == "GetCallerIdentity"
}

// subscribed are goaws's queues.
type subscribed struct{ *translator }

var _ fakesns.Queues = subscribed{}

// Deliver sends a message to a queue as a client of SQS does.
func (s subscribed) Deliver(queueARN string, e fakesqs.Entry) error {
	name := queueARN[strings.LastIndexByte(queueARN, ':')+1:]
	body, err := json.Marshal(struct {
		QueueUrl string
		fakesqs.Entry
	}{"/" + Account + "/" + name, e})
	if err != nil {
		return fmt.Errorf("encoding a message to %s: %w", name, err)
	}
	r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
	r.Header.Set("Content-Type", jsonProtocol)
	r.Header.Set("X-Amz-Target", "AmazonSQS.SendMessage")
	answer := httptest.NewRecorder()
	s.forward("SendMessage", answer, r)
	if answer.Code >= http.StatusBadRequest {
		return fmt.Errorf("delivering to %s: %s", name, answer.Body)
	}
	return nil
}
