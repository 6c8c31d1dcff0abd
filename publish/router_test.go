package publish_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish"
)

// plain is a publisher that answers with its own name, or with the error of do.
type plain struct {
	scheme, name string
	do           func() error
}

var _ publish.Publisher = plain{}

func (p plain) Scheme() string { return p.scheme }

func (p plain) Publish(context.Context, outflow.Message) (string, error) {
	if p.do != nil {
		return "", p.do()
	}
	return p.name, nil
}

func to(destination string) outflow.Message { return outflow.Message{Destination: destination} }

func TestRouterPicksByScheme(t *testing.T) {
	r := publish.NewRouter(plain{scheme: "sqs", name: "queue"}, plain{scheme: "sns", name: "topic"},
		plain{scheme: "https", name: "post"})
	assert.NoError(t, r.Err())
	assert.Equal(t, []string{"https", "sns", "sqs"}, r.Schemes())
	for destination, want := range map[string]string{
		"sqs://orders": "queue",
		"https://sqs.eu-west-1.amazonaws.com/123456789012/orders": "queue",
		"arn:aws:sns:eu-west-1:123456789012:news":                 "topic",
		"https://shop.example/hook":                               "post",
		"http://localhost:8080/hook":                              "post",
		"http://localhost:8080/123456789012/hook":                 "queue",
	} {
		got, err := r.Publish(t.Context(), to(destination))
		assert.NoError(t, err)
		assert.Equal(t, want, got, destination)
	}
}

func TestRouterRefusesForGood(t *testing.T) {
	for name, tc := range map[string]struct {
		router      *publish.Router
		destination string
		says        []string
	}{
		"unparsable": {publish.NewRouter(), "orders", []string{"no scheme", "redirect"}},
		"unknown scheme": {publish.NewRouter(plain{scheme: "sqs"}), "ftp://orders",
			[]string{`unknown scheme "ftp"`, "redirect"}},
		"no publisher": {publish.NewRouter(plain{scheme: "sqs"}), "sns://news", []string{"sns://news", "there is sqs",
			"redirect", "or deliver it with a program of your own that has one"}},
		"no https": {publish.NewRouter(plain{scheme: "sqs"}), "https://shop.example/",
			[]string{"no publisher for https://", "there is sqs", "redirect"}},
		"plain http": {publish.NewRouter(plain{scheme: "sqs"}), "http://localhost/",
			[]string{"http://localhost/: no publisher for https://", "there is sqs", "redirect"}},
		"a query": {publish.NewRouter(), "https://shop.example/in?token=hunter2",
			[]string{"publishing to https://shop.example/in: no publisher"}},
		"no publishers": {publish.NewRouter(), "sns://news", []string{"there is none"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tc.router.Publish(t.Context(), to(tc.destination))
			assert.True(t, outflow.IsPermanent(err), "%v", err)
			assert.NotContains(t, err.Error(), "hunter2")
			for _, text := range tc.says {
				assert.ErrorContains(t, err, text)
			}
		})
	}
}

func TestRouterWithTwoPublishersForASchemeUsesNeither(t *testing.T) {
	r := publish.NewRouter(plain{scheme: "sqs", name: "a"}, plain{scheme: "sqs", name: "b"},
		plain{scheme: "sns", name: "c"}, nil)
	assert.ErrorContains(t, r.Err(), "two publishers for sqs://")
	assert.ErrorContains(t, r.Err(), "publisher 3 is nil")
	assert.Equal(t, []string{"sns"}, r.Schemes())
	_, err := r.Publish(t.Context(), to("sqs://orders"))
	assert.Equal(t, outflow.ClassUnavailable, outflow.ClassOf(err), "%v", err)
	got, err := r.Publish(t.Context(), to("sns://news"))
	assert.NoError(t, err)
	assert.Equal(t, "c", got)
}

func TestRouterPassesErrorsOnAndSurvivesPanics(t *testing.T) {
	gone := outflow.Permanent(errors.New("gone"))
	r := publish.NewRouter(plain{scheme: "sqs", do: func() error { return gone }},
		plain{scheme: "sns", do: func() error { panic("boom") }})
	_, err := r.Publish(t.Context(), to("sqs://orders"))
	assert.Same(t, gone, err)
	_, err = r.Publish(t.Context(), to("sns://news"))
	assert.True(t, outflow.IsPermanent(err), "%v", err)
	assert.ErrorContains(t, err, "publishing to sns://news: the publisher panicked: a string, not shown")
	assert.NotContains(t, err.Error(), "boom", "it may quote the message")
	var panicked *publish.PanicError
	assert.ErrorAs(t, err, &panicked)
	assert.Equal(t, "boom", panicked.Value)
	assert.Contains(t, string(panicked.Stack), "router_test.go", "where it panicked")

	r = publish.NewRouter(plain{scheme: "sns", do: func() error { var none []error; return none[len(none)] }})
	_, err = r.Publish(t.Context(), to("sns://news"))
	assert.True(t, outflow.IsPermanent(err), "%v", err)
	assert.ErrorContains(t, err, "the publisher panicked: runtime error: index out of range [0] with length 0 (")
}
