package main

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb/outboxtest"
)

// TestOneWrite is the test of before, with Outflow: an order exists if and only if its message
// does, and the customer does not notice an outage of SQS.
func TestOneWrite(t *testing.T) {
	pool := teststack.New(t)
	_, err := pool.Exec(t.Context(), `CREATE TABLE orders (
		id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, item text NOT NULL)`)
	require.NoError(t, err)
	s := &service{pool: pool, queueURL: "https://sqs.eu-west-1.amazonaws.com/123456789012/orders"}
	post := func(item string) int {
		answer := httptest.NewRecorder()
		s.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/orders",
			strings.NewReader(`{"item": "`+item+`"}`)))
		return answer.Code
	}
	require.Equal(t, http.StatusCreated, post("teapot"))
	require.Equal(t, http.StatusCreated, post("kettle"))
	outboxtest.RequireEnqueued(t, pool,
		outflow.Message{Destination: s.queueURL, Type: "order-placed", Payload: []byte(`{"id": 1, "item": "teapot"}`)},
		outflow.Message{Destination: s.queueURL, Type: "order-placed", Payload: []byte(`{"id": 2, "item": "kettle"}`)},
	)

	attempts := 0
	deliveries := outboxtest.Deliver(t, pool, outboxtest.PublisherFunc(func(outflow.Message) error {
		if attempts++; attempts == 1 {
			return outflow.Unavailable(errors.New("SQS does not answer"))
		}
		return nil
	}))
	require.Len(t, deliveries, 2)
	for _, d := range deliveries {
		require.Equal(t, outflow.Delivered, d.Outcome.State)
	}

	t.Run("no message, no order", func(t *testing.T) {
		s.queueURL = "orders" // no destination: Enqueue refuses it
		require.Equal(t, http.StatusInternalServerError, post("samovar"))
		var orders int
		require.NoError(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM orders`).Scan(&orders))
		require.Equal(t, 2, orders)
		outboxtest.RequireEnqueued(t, pool)
	})
}
