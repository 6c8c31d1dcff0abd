package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

// TestDualWrite shows the fault: where SQS fails, the order is in the table and its message is
// lost. The customer gets an error, and orders again.
func TestDualWrite(t *testing.T) {
	pool := teststack.NewEmpty(t)
	_, err := pool.Exec(t.Context(), `CREATE TABLE orders (
		id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, item text NOT NULL)`)
	require.NoError(t, err)
	queues := &fakesqs.Server{AutoCreate: true}
	endpoint := httptest.NewServer(queues)
	t.Cleanup(endpoint.Close)
	s := &service{pool: pool, queueURL: endpoint.URL + "/000000000000/orders", queue: sqs.New(sqs.Options{
		BaseEndpoint: &endpoint.URL, Region: "eu-west-1", RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider("fake", "fake", ""),
	})}
	post := func() int {
		answer := httptest.NewRecorder()
		s.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/orders",
			strings.NewReader(`{"item": "teapot"}`)))
		return answer.Code
	}
	require.Equal(t, http.StatusCreated, post())
	queues.Inject(fakesqs.Fault{Queue: "orders",
		Error: &fakesqs.Error{Status: http.StatusServiceUnavailable, Code: "ServiceUnavailable"}})
	require.Equal(t, http.StatusInternalServerError, post())
	queues.Heal("")
	require.Equal(t, http.StatusCreated, post())

	var orders int
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM orders`).Scan(&orders))
	require.Equal(t, 3, orders)
	require.Len(t, queues.Messages("", "orders"), 2, "the second order is never announced")
}
