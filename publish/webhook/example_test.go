package webhook_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"

	"github.com/google/uuid"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/webhook"
)

// A sender, and a receiver on the same machine: hence InsecureLoopback and
// RootCAs, which a real sender has no need of.
func Example() {
	const secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="

	receiver := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			return
		}
		verifier, err := standardwebhooks.NewWebhook(secret)
		if err != nil || verifier.Verify(body, r.Header) != nil {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		m, err := webhook.Decode(r.Header, body)
		fmt.Println(m.ID, m.Type, string(m.Payload), err)
	}))
	defer receiver.Close()

	hosts, err := webhook.ParseHosts("127.0.0.1")
	if err != nil {
		fmt.Println(err)
		return
	}
	secrets, err := webhook.ParseSecrets(secret)
	if err != nil {
		fmt.Println(err)
		return
	}
	publisher := webhook.New(webhook.Options{
		Hosts:            hosts,
		Secrets:          webhook.Secrets{Default: secrets}.For,
		InsecureLoopback: true,
		RootCAs:          receiver.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs,
	})
	defer publisher.Close()

	_, err = publish.NewRouter(publisher).Publish(context.Background(), outflow.Message{
		ID:          uuid.MustParse("0190a5b0-7c3e-7d50-9a2f-000000000001"),
		Destination: receiver.URL + "/orders",
		Type:        "order-placed",
		Payload:     []byte(`{"id":7}`),
	})
	fmt.Println(err)
	// Output:
	// 0190a5b0-7c3e-7d50-9a2f-000000000001 order-placed {"id":7} <nil>
	// <nil>
}
