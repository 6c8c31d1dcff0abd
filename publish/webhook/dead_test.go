package webhook_test

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/golden"
	"github.com/outflowhq/outflow/internal/text"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/webhook"
)

// TestWhyMessagesEndDead pins the text on the row of each message to an https
// address that can't be delivered.
func TestWhyMessagesEndDead(t *testing.T) {
	a := newAuthority(t)
	port := serveHTTP(t, a, func(w http.ResponseWriter, r *http.Request) {
		status, err := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
		if err == nil {
			w.WriteHeader(status)
		}
	})
	p := publisher(t, a, webhook.Options{})
	address := "https://" + name + ":" + port + "/"
	var all []golden.Death
	add := func(cause string, by sender, change func(m *outflow.Message)) {
		t.Helper()
		m := message(port)
		m.ID, m.Destination = uuid.MustParse("0190a5b0-7c3e-7d50-9a2f-000000000001"), address+"200?token=hunter2"
		change(&m)
		_, err := by.Publish(t.Context(), m)
		require.Error(t, err, cause)
		require.True(t, outflow.IsPermanent(err), "%s: %v", cause, err)
		failed(t, err, outflow.ClassPermanent, "")
		all = append(all, golden.Death{Cause: cause,
			LastError: strings.ReplaceAll(text.Clean(err.Error()), ":"+port, "")})
	}
	to := func(destination string) func(m *outflow.Message) {
		return func(m *outflow.Message) { m.Destination = destination }
	}

	add("no host", p, to("https:///orders?token=hunter2"))
	add("a user name", p, to("https://hunter2@"+name+"/"))
	add("plain http to elsewhere", p, to("http://"+name+"/"))
	add("plain http to this machine, not switched on", p, to("http://localhost/"))
	add("a program of your own without a publisher for https", publish.NewRouter(), to("https://"+name+"/orders"))
	add("another scheme", p, to("sqs://orders"))
	add("a content type with a line break", p, func(m *outflow.Message) { m.ContentType = "text/plain\r\nx: y" })
	add("a header that is not UTF-8", p, func(m *outflow.Message) { m.Headers = map[string]string{"x": "\xff"} })
	add("a type that no header takes", p, func(m *outflow.Message) { m.Type = "a\x01b" })
	add("an ordering key that no header takes", p, func(m *outflow.Message) { m.OrderingKey = "a\x01b" })
	for _, status := range []int{
		http.StatusGone, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType,
		http.StatusUnprocessableEntity, http.StatusRequestHeaderFieldsTooLarge,
	} {
		add("its receiver answers "+strconv.Itoa(status), p, to(address+strconv.Itoa(status)))
	}
	golden.Deaths(t, "publish/webhook", all, all)
}

// sender is a Publisher or a Router.
type sender interface {
	Publish(ctx context.Context, m outflow.Message) (string, error)
}
