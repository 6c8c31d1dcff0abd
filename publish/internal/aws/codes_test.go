package aws

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/outflowhq/outflow"
)

var service = &Service{
	Name: "SQS", ID: "SQS", Destination: "queue", Actions: "sqs:SendMessage", CodePrefix: "Prefix.",
	Codes: CodesWith(map[string]Kind{"Gone": Missing, "Throttling": Down}),
}

func TestKindOf(t *testing.T) {
	for _, c := range []struct {
		code   string
		status int
		want   Kind
	}{
		{"AccessDenied", 403, Denied},
		{"Prefix.Gone", 400, Missing},
		{"com.amazonaws.sqs#Gone", 400, Missing},
		{"Throttling", 400, Down}, // the service's own counts before the common
		{"Throttled", 400, Throttled},
		{"Whatever", 429, Throttled},
		{"", 413, Content},
		{"", 502, Down},
		{"Whatever", 400, Unknown},
		{"Whatever", 0, Unknown},
	} {
		assert.Equal(t, c.want, service.KindOf(c.code, c.status), "%s %d", c.code, c.status)
	}
}

func TestKindsAreConsistent(t *testing.T) {
	for _, k := range []Kind{
		Throttled, Denied, UnknownCaller, KeyRefused, WrongEndpoint, Down, Missing, Content, Unknown,
		NoCredentials, Unreachable, Unanswered,
	} {
		assert.NotEmpty(t, service.Advice(k), "%s: it says what to do", k)
		assert.Equal(t, k.Class() == outflow.ClassPermanent, k == Content || k == Missing,
			"%s: permanent is the content or the destination", k)
	}
	assert.True(t, Content.mayQuote(), "a text about content may quote it")
	assert.Equal(t, outflow.ClassUnavailable, Throttled.Class())
	for code := range service.Codes {
		assert.Equal(t, code, service.plainCode(code), "it is listed in its plain form")
	}
}

func TestFailureQuotesNoMessage(t *testing.T) {
	r := Refusal{Doing: "sending", Kind: Content, Code: "Bad", Said: "value hunter2 of MessageBody", Size: 7}
	assert.EqualError(t, service.Failure(r), "sending: Bad ("+service.Advice(Content)+")")
	own := *service
	own.Parameters = []string{"MessageBody"}
	assert.ErrorContains(t, own.Failure(r), "sending: Bad: it names MessageBody (")
	own.TooLarge = func(string, int) (string, string, bool) { return "too large", "make it smaller", true }
	assert.EqualError(t, own.Failure(r), "sending: Bad: too large (make it smaller)")
	r.Size = 0
	assert.NotContains(t, own.Failure(r).Error(), "too large", "several messages: none is named")

	gone := service.EntryFailure(Refusal{Doing: "sending", Code: "Prefix.Gone", Said: "no queue."})
	assert.ErrorIs(t, gone, outflow.ErrNoDestination)
	assert.ErrorContains(t, gone, "sending: Gone: no queue (create the queue")
	assert.ErrorContains(t, service.EntryFailure(Refusal{SenderFault: true}), "no code (sender's fault)")
}
