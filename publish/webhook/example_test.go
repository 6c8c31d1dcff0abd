package webhook_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/google/uuid"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/webhook"
)

// A sender and its receiver. They share a machine here: hence InsecureLoopback and RootCAs,
// which a real sender does not need.
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

// A receiver verifies the signature before it decodes, and answers 2xx once it has the
// message. A library of the Standard Webhooks specification verifies.
func ExampleDecode() {
	verifier, err := standardwebhooks.NewWebhook("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")
	if err != nil {
		fmt.Println(err)
		return
	}
	receive := func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 16<<20))
		if err != nil {
			return
		}
		if verifier.Verify(body, r.Header) != nil {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		m, err := webhook.Decode(r.Header, body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		fmt.Println("received", m.ID, string(m.Payload))
	}

	const id, body = "0190a5b0-7c3e-7d50-9a2f-000000000001", `{"id":7}`
	now := time.Now()
	signature, err := verifier.Sign(id, now, []byte(body))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, signature := range []string{signature, "v1,forged"} {
		r := httptest.NewRequest(http.MethodPost, "/orders", strings.NewReader(body))
		r.Header.Set(webhook.HeaderID, id)
		r.Header.Set(webhook.HeaderTimestamp, fmt.Sprint(now.Unix()))
		r.Header.Set(webhook.HeaderSignature, signature)
		r.Header.Set(webhook.HeaderType, "order-placed")
		answer := httptest.NewRecorder()
		receive(answer, r)
		fmt.Println(answer.Code)
	}
	// Output:
	// received 0190a5b0-7c3e-7d50-9a2f-000000000001 {"id":7}
	// 200
	// 401
}
