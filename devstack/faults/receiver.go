package faults

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// Receiver is a service that takes callbacks, over TLS on the loopback address.
// It verifies every request with the specification's own library, remembers by
// webhook-id what came and what it answered, and answers 204 unless a path is held
// or behaves in another way.
type Receiver struct {
	server        *httptest.Server
	authorityFile string
	secret        string
	verifier      *standardwebhooks.Webhook

	mu      sync.Mutex
	senders map[string]*standardwebhooks.Webhook // by the secret that is theirs alone
	calls   map[string]*calls                    // by webhook-id
	holds   map[string]*Hold                     // by path
	bad     map[string]func() http.HandlerFunc   // by path
	took    map[string][]string                  // by path: the webhook-ids that it took, in their order
	forged  []error
}

// calls counts the requests with one webhook-id; from is who sent the last one.
type calls struct {
	received, answered int
	from               string
}

// Call is a request that a Receiver has.
type Call struct {
	ID   string // the webhook-id
	From string // who sent it, where it signs with a secret of its own
}

// NewReceiver starts a receiver.
func NewReceiver() (*Receiver, error) {
	r := &Receiver{
		secret:  newSecret(),
		senders: map[string]*standardwebhooks.Webhook{}, calls: map[string]*calls{}, holds: map[string]*Hold{},
		bad: map[string]func() http.HandlerFunc{}, took: map[string][]string{},
	}
	var err error
	if r.verifier, err = standardwebhooks.NewWebhook(r.secret); err != nil {
		return nil, fmt.Errorf("making the receiver's verifier: %w", err)
	}
	certificate, err := r.certify()
	if err != nil {
		return nil, fmt.Errorf("making the receiver's certificate: %w", err)
	}
	r.server = httptest.NewUnstartedServer(r)
	r.server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	r.server.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes that a kill ends
	r.server.StartTLS()
	return r, nil
}

// certify makes a certificate for the loopback address, which is its own
// authority, and writes that to a file.
func (r *Receiver) certify() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a receiver of callbacks"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	file, err := os.CreateTemp("", "receiver-*.pem")
	if err != nil {
		return tls.Certificate{}, err
	}
	r.authorityFile = file.Name()
	defer file.Close()
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.Encode(file,
		&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func newSecret() string {
	random := make([]byte, 32)
	_, _ = rand.Read(random) // it never fails
	return "whsec_" + base64.StdEncoding.EncodeToString(random)
}

// URL is where a callback is sent to; path begins with a slash.
func (r *Receiver) URL(path string) string { return r.server.URL + path }

// Env is the environment with which programs call it.
func (r *Receiver) Env() []string {
	return []string{
		"OUTFLOW_WEBHOOK_HOSTS=127.0.0.1", "OUTFLOW_WEBHOOK_INSECURE_LOOPBACK=on",
		"OUTFLOW_WEBHOOK_SECRET=" + r.secret, "SSL_CERT_FILE=" + r.authorityFile,
	}
}

// EnvOf is Env with a second secret by which the receiver knows who sends.
func (r *Receiver) EnvOf(sender string) ([]string, error) {
	own := newSecret()
	verifier, err := standardwebhooks.NewWebhook(own)
	if err != nil {
		return nil, fmt.Errorf("making the verifier of %s: %w", sender, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.senders[sender] = verifier
	return append(r.Env(), "OUTFLOW_WEBHOOK_SECRET="+r.secret+" "+own), nil
}

// Close ends it.
func (r *Receiver) Close() {
	r.server.CloseClientConnections() // which ends the requests that are held
	r.server.Close()
	_ = os.Remove(r.authorityFile)
}

// Behave has another answer the requests to a path, whose callbacks then count as
// not taken; nil ends that. A path that ends in a slash stands for all below it.
func (r *Receiver) Behave(path string, answer http.HandlerFunc) {
	r.BehaveAs(path, func() http.HandlerFunc { return answer })
}

// BehaveAs is Behave with an answer that is chosen for each request. Where choose
// returns nil, the request is taken.
func (r *Receiver) BehaveAs(path string, choose func() http.HandlerFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bad[path] = choose
}

// badAt is the other answer for a path, or nil. It runs under the lock.
func (r *Receiver) badAt(path string) http.HandlerFunc {
	if choose := r.bad[path]; choose != nil {
		if answer := choose(); answer != nil {
			return answer
		}
	}
	for prefix, choose := range r.bad {
		if strings.HasSuffix(prefix, "/") && strings.HasPrefix(path, prefix) {
			return choose()
		}
	}
	return nil
}

// Took are the webhook-ids of the requests to a path that were taken, in the order
// in which they came.
func (r *Receiver) Took(path string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.took[path])
}

func (r *Receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // the client is gone
	}
	call, hold, bad := r.receive(req, body)
	switch {
	case call.ID == "":
		w.WriteHeader(http.StatusUnauthorized)
		return
	case bad != nil:
		bad(w, req)
		return
	case hold != nil && !hold.wait(req.Context(), call):
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(http.StatusNoContent)
	if http.NewResponseController(w).Flush() == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.calls[call.ID].answered++
	}
}

// receive verifies and counts a request. The call of one that is forged has no ID.
func (r *Receiver) receive(req *http.Request, body []byte) (Call, *Hold, http.HandlerFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.verifier.Verify(body, req.Header); err != nil {
		r.forged = append(r.forged, err)
		return Call{}, nil, nil
	}
	call := Call{ID: req.Header.Get(standardwebhooks.HeaderWebhookID)}
	for sender, own := range r.senders {
		if own.Verify(body, req.Header) == nil {
			call.From = sender
		}
	}
	if r.calls[call.ID] == nil {
		r.calls[call.ID] = &calls{}
	}
	r.calls[call.ID].received++
	r.calls[call.ID].from = call.From
	bad := r.badAt(req.URL.Path)
	if bad == nil {
		r.took[req.URL.Path] = append(r.took[req.URL.Path], call.ID)
	}
	return call, r.holds[req.URL.Path], bad
}

// of returns how often a callback came, and how often it was answered.
func (r *Receiver) of(webhookID string) calls {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.calls[webhookID]; c != nil {
		return *c
	}
	return calls{}
}

// forgeries are the errors of requests whose signature was wrong.
func (r *Receiver) forgeries() []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]error(nil), r.forged...)
}

// Hold keeps the requests to one path waiting for their answer.
type Hold struct {
	receiver *Receiver
	path     string
	released chan struct{}

	mu      sync.Mutex
	waiting map[*Call]bool
	answer  func(Call) bool
}

// Hold holds the requests to a path from now on, until Release.
func (r *Receiver) Hold(path string) *Hold {
	h := &Hold{receiver: r, path: path, released: make(chan struct{}), waiting: map[*Call]bool{}}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.holds[path] = h
	return h
}

// Waiting are the calls that wait.
func (h *Hold) Waiting() (calls []Call) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.waiting {
		calls = append(calls, *c)
	}
	return calls
}

// Release answers the calls for which answer says so, and closes the connections
// of the others. Later ones are not held. A second Release does nothing.
func (h *Hold) Release(answer func(Call) bool) {
	h.receiver.mu.Lock()
	delete(h.receiver.holds, h.path)
	h.receiver.mu.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.answer == nil {
		h.answer = answer
		close(h.released)
	}
}

// wait reports whether the call is to be answered.
func (h *Hold) wait(ctx context.Context, call Call) bool {
	h.mu.Lock()
	h.waiting[&call] = true
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		delete(h.waiting, &call)
		h.mu.Unlock()
	}()
	select {
	case <-ctx.Done(): // the caller is dead
		return false
	case <-h.released:
		return h.answer(call)
	}
}
