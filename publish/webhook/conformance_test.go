package webhook_test

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/publishtest"
	"github.com/outflowhq/outflow/publish/webhook"
)

func TestConformance(t *testing.T) { publishtest.Run(t, newReceiver(t)) }

const maxBytes = 1 << 20

// receiver is a service with many endpoints. It verifies with the
// specification's own library, and names each request.
type receiver struct {
	t        *testing.T
	roots    *authority
	http     *httptest.Server
	gate     *publishtest.Gate
	verifier *standardwebhooks.Webhook
	paths    atomic.Int64

	mu     sync.Mutex
	inbox  map[string][]outflow.Message
	faults map[string]publishtest.Fault
}

var _ publishtest.Harness = (*receiver)(nil)

func newReceiver(t *testing.T) *receiver {
	verifier, err := standardwebhooks.NewWebhook(secretText)
	require.NoError(t, err)
	r := &receiver{t: t, roots: newAuthority(t), verifier: verifier, inbox: map[string][]outflow.Message{},
		faults: map[string]publishtest.Fault{}}
	r.http = httptest.NewUnstartedServer(r)
	r.http.TLS = r.roots.config(t, "127.0.0.1",
		time.Now().Add(time.Hour)) // its own has a key that is slow to sign with
	r.http.Config.ErrorLog = log.New(io.Discard, "", 0)
	r.http.StartTLS()
	t.Cleanup(r.http.Close)
	r.gate = publishtest.NewGate(t, r.http.Listener.Addr().String())
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return
	}
	if len(body) > maxBytes {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return
	}
	r.mu.Lock()
	fault := r.faults[req.URL.Path]
	r.mu.Unlock()
	switch fault {
	case publishtest.Throttled:
		w.WriteHeader(http.StatusTooManyRequests)
		return
	case publishtest.Denied:
		w.WriteHeader(http.StatusForbidden)
		return
	case publishtest.Broken:
		w.WriteHeader(http.StatusInternalServerError)
		return
	case publishtest.Slow:
		select {
		case <-time.After(publishtest.SlowBy):
		case <-req.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}
	if err := r.verifier.Verify(body, req.Header); err != nil {
		r.t.Errorf("verifying: %v", err)
	}
	m, err := webhook.Decode(req.Header, body)
	if err != nil {
		r.t.Errorf("decoding: %v", err)
	}
	r.mu.Lock()
	r.inbox[req.URL.Path] = append(r.inbox[req.URL.Path], m)
	r.mu.Unlock()
	if fault == publishtest.AnswerLost {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("X-Request-Id", uuid.NewString())
	w.WriteHeader(http.StatusNoContent)
}

func (r *receiver) Publisher(t *testing.T) publish.Publisher {
	p := webhook.New(webhook.Options{
		Hosts: hosts(t, "127.0.0.1"), Secrets: secrets(t, secretText), InsecureLoopback: true, RootCAs: r.roots.pool,
		Timeout: 4500 * time.Millisecond, // fifty handshakes at once take their time where the race detector watches
	})
	t.Cleanup(p.Close)
	return p
}

func (r *receiver) Destination(*testing.T) string {
	return fmt.Sprintf("https://%s/endpoint-%d", r.gate.Address(), r.paths.Add(1))
}

func (r *receiver) MissingDestination(*testing.T) string { return "" }

func (r *receiver) Skip(name string) (string, bool) {
	switch name {
	case publishtest.CaseMissingDestination:
		return "an address without a service answers 404, which a deployment may correct", true
	case publishtest.CaseBatchOrder, publishtest.CaseBatch:
		return "a request has one message", true
	}
	return "", false
}

func (r *receiver) Receive(_ *testing.T, destination string, _ int) []outflow.Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	path := r.path(destination)
	found := r.inbox[path]
	delete(r.inbox, path)
	return found
}

func (r *receiver) MaxBytes() int { return maxBytes }

func (r *receiver) Break(_ *testing.T, destination string, f publishtest.Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults[r.path(destination)] = f
	if f == publishtest.Unreachable {
		r.gate.Shut()
	}
}

func (r *receiver) Restore(t *testing.T, destination string) {
	r.gate.Open(t)
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.faults, r.path(destination))
}

func (r *receiver) path(destination string) string {
	return strings.TrimPrefix(destination, "https://"+r.gate.Address())
}
