package fakesqs

import (
	"net/url"
	"strings"
)

// Entry is one message as it was sent.
type Entry struct {
	MessageBody            string
	MessageAttributes      map[string]Attribute
	MessageGroupId         string
	MessageDeduplicationId string
}

// Attribute is a message attribute.
type Attribute struct {
	DataType    string
	StringValue string `json:",omitempty"`
	BinaryValue []byte `json:",omitempty"`
}

// size counts the body, and name, type and value of each attribute.
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-message-metadata.html
func (e Entry) size() int {
	n := len(e.MessageBody)
	for name, a := range e.MessageAttributes {
		n += len(name) + len(a.DataType) + len(a.StringValue) + len(a.BinaryValue)
	}
	return n
}

// sendEntry is an entry of a SendMessageBatch or DeleteMessageBatch.
type sendEntry struct {
	Entry
	Id            string
	ReceiptHandle string
}

// input holds the members of every request that the fake knows.
type input struct {
	Entry
	Entries                     []sendEntry
	QueueName                   string
	QueueNamePrefix             string
	QueueOwnerAWSAccountId      string
	QueueUrl                    string
	ReceiptHandle               string
	Attributes                  map[string]string
	MaxNumberOfMessages         int
	VisibilityTimeout           *int
	WaitTimeSeconds             int
	AttributeNames              []string
	MessageSystemAttributeNames []string
	MessageAttributeNames       []string
}

func (in input) single() sendEntry { return sendEntry{Entry: in.Entry, Id: "0"} }

func (in input) entries(action string) []sendEntry {
	switch action {
	case "SendMessage":
		return []sendEntry{in.single()}
	case "SendMessageBatch":
		return in.Entries
	}
	return nil
}

// names returns the account and the queue's name that the request is about.
func (in input) names() (account, name string) {
	if in.QueueUrl != "" {
		parts := strings.Split(pathOf(in.QueueUrl), "/")
		return parts[max(len(parts)-2, 0)], parts[len(parts)-1]
	}
	account = in.QueueOwnerAWSAccountId
	if account == "" {
		account = DefaultAccount
	}
	return account, in.QueueName
}

func pathOf(queueURL string) string {
	u, err := url.Parse(queueURL)
	if err != nil {
		return ""
	}
	return strings.Trim(u.Path, "/")
}

// wants reports whether a list of attribute names has name: by itself, by
// "All", or by a prefix that ends in ".*".
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_ReceiveMessage.html
func wants(names []string, name string) bool {
	for _, n := range names {
		if n == "All" || n == ".*" || n == name {
			return true
		}
		if prefix, ok := strings.CutSuffix(n, ".*"); ok && strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}
