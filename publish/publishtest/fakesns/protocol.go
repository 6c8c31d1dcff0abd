package fakesns

import (
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

// Entry is one message as it was published.
type Entry struct {
	Message, Subject       string
	MessageAttributes      map[string]fakesqs.Attribute
	MessageGroupId         string
	MessageDeduplicationId string
}

// batchEntry is an entry of a PublishBatch.
type batchEntry struct {
	Entry
	id         string
	hasSubject bool
}

// form is a request's body, in which lists and maps are spelled out.
type form url.Values

func (f form) get(name string) string { return url.Values(f).Get(name) }

// under returns the members of a list or a map, by the names below each.
func (f form) under(prefix string) (members []form) {
	for n := 1; ; n++ {
		start := fmt.Sprintf("%s.%d.", prefix, n)
		member := form{}
		for name, values := range f {
			if rest, ok := strings.CutPrefix(name, start); ok {
				member[rest] = values
			}
		}
		if len(member) == 0 {
			return members
		}
		members = append(members, member)
	}
}

// pairs returns a map of texts.
func (f form) pairs(prefix string) map[string]string {
	found := map[string]string{}
	for _, entry := range f.under(prefix + ".entry") {
		found[entry.get("key")] = entry.get("value")
	}
	return found
}

func (f form) entries(action string) (found []batchEntry) {
	switch action {
	case "Publish":
		return []batchEntry{f.entry()}
	case "PublishBatch":
		for _, member := range f.under("PublishBatchRequestEntries.member") {
			found = append(found, member.entry())
		}
	}
	return found
}

func (f form) entry() batchEntry {
	e := batchEntry{id: f.get("Id"), hasSubject: f["Subject"] != nil, Entry: Entry{
		Message: f.get("Message"), Subject: f.get("Subject"), MessageGroupId: f.get("MessageGroupId"),
		MessageDeduplicationId: f.get("MessageDeduplicationId"), MessageAttributes: map[string]fakesqs.Attribute{},
	}}
	for _, a := range f.under("MessageAttributes.entry") {
		var binary []byte
		if encoded := a.get("Value.BinaryValue"); encoded != "" {
			binary, _ = base64.StdEncoding.DecodeString(encoded)
		}
		e.MessageAttributes[a.get("Name")] = fakesqs.Attribute{
			DataType: a.get("Value.DataType"), StringValue: a.get("Value.StringValue"), BinaryValue: binary,
		}
	}
	return e
}

const (
	namespace = "http://sns.amazonaws.com/doc/2010-03-31/"
	requestID = "00000000-0000-4000-8000-000000000000"
)

func writeAnswer(w http.ResponseWriter, action string, result any) {
	w.Header().Set("Content-Type", "text/xml")
	fmt.Fprintf(w, "<%sResponse xmlns=%q>", action, namespace)
	if result != nil {
		_ = xml.NewEncoder(w).EncodeElement(result, xml.StartElement{Name: xml.Name{Local: action + "Result"}})
	}
	fmt.Fprintf(w, "<ResponseMetadata><RequestId>%s</RequestId></ResponseMetadata></%sResponse>", requestID, action)
}

// Error is an error answer of SNS.
type Error struct {
	// Status is the HTTP status; 400 by default.
	Status int
	// Code is the query protocol's, such as "NotFound".
	Code string
	// SenderFault is part of a batch's entry.
	SenderFault bool
	Message     string
	// RetryAfter, if set, is sent as the header of that name.
	RetryAfter string
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

func writeError(w http.ResponseWriter, e *Error) {
	status, fault := e.Status, "Sender"
	if status == 0 {
		status = http.StatusBadRequest
	}
	if status >= 500 {
		fault = "Receiver"
	}
	w.Header().Set("Content-Type", "text/xml")
	if e.RetryAfter != "" {
		w.Header().Set("Retry-After", e.RetryAfter)
	}
	w.WriteHeader(status)
	answer := struct {
		XMLName   xml.Name `xml:"ErrorResponse"`
		Namespace string   `xml:"xmlns,attr"`
		Type      string   `xml:"Error>Type"`
		Code      string   `xml:"Error>Code"`
		Message   string   `xml:"Error>Message"`
		RequestID string   `xml:"RequestId"`
	}{Namespace: namespace, Type: fault, Code: e.Code, Message: e.Message, RequestID: requestID}
	_ = xml.NewEncoder(w).Encode(answer)
}

// The parts of answers.
type (
	callerIdentity struct{ Account, Arn string }
	topicARN       struct{ TopicArn string }
	topicList      struct {
		Topics []topicARN `xml:"Topics>member"`
	}
	pair struct {
		Key   string `xml:"key"`
		Value string `xml:"value"`
	}
	attributeList struct {
		Attributes []pair `xml:"Attributes>entry"`
	}
	subscriptionARN     struct{ SubscriptionArn string }
	subscriptionSummary struct{ SubscriptionArn, TopicArn, Protocol, Endpoint, Owner string }
	subscriptionList    struct {
		Subscriptions []subscriptionSummary `xml:"Subscriptions>member"`
	}
	accepted struct {
		MessageId      string
		SequenceNumber string `xml:",omitempty"`
	}
	successEntry struct {
		Id string
		accepted
	}
	failedEntry struct {
		Id, Code, Message string
		SenderFault       bool
	}
	batchOutput struct {
		Successful []successEntry `xml:"Successful>member"`
		Failed     []failedEntry  `xml:"Failed>member"`
	}
)

func sortedPairs(m map[string]string) (pairs []pair) {
	for _, key := range slices.Sorted(maps.Keys(m)) {
		pairs = append(pairs, pair{key, m[key]})
	}
	return pairs
}
