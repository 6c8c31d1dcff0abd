package faults

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"path"
	"regexp"
	"time"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

// Sending is a request that carries messages to SQS.
type Sending struct {
	From  string // the region that it is signed for: an Agent's ID
	Queue string
	IDs   []uuid.UUID
}

// OnSending has f called for each request with messages, before SQS takes them.
// What it returns, if anything, is called when the answer is on its way.
func (w *World) OnSending(f func(Sending) (answered func())) { w.tap.Store(&f) }

var signedFor = regexp.MustCompile(`Credential=[^/]*/[0-9]{8}/([^/]+)/`)

// tapped reports a request to the tap, and returns the function to call after the
// answer, or nil, and how late that is to be.
func (w *World) tapped(r *http.Request) (answered func(), late time.Duration) {
	tap, lateFor := w.tap.Load(), w.lateFor.Load()
	if tap == nil && lateFor == nil {
		return nil, 0
	}
	s := sendingOf(r)
	if len(s.IDs) == 0 {
		return nil, 0
	}
	if lateFor != nil && lateFor.queue == s.Queue {
		late = lateFor.by
	}
	if tap != nil {
		answered = (*tap)(s)
	}
	return answered, late
}

// sendingOf reads what a request carries, and leaves it to be read again.
func sendingOf(r *http.Request) (s Sending) {
	body, err := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	if err != nil {
		return s // the client is gone
	}
	var in struct {
		QueueUrl      string
		fakesqs.Entry                 // of a SendMessage
		Entries       []fakesqs.Entry // of a SendMessageBatch
	}
	if json.Unmarshal(body, &in) != nil {
		return s // SQS says so itself
	}
	s.Queue = path.Base(in.QueueUrl)
	for _, e := range append(in.Entries, in.Entry) {
		if id, err := uuid.Parse(e.MessageAttributes["outflow-message-id"].StringValue); err == nil {
			s.IDs = append(s.IDs, id)
		}
	}
	if found := signedFor.FindStringSubmatch(r.Header.Get("Authorization")); found != nil {
		s.From = found[1]
	}
	return s
}
