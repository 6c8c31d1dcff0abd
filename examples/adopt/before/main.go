// Command before accepts orders over HTTP: it writes each to Postgres and announces it on
// SQS.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/jackc/pgx/v5/pgxpool"
)

func main() {
	if err := run(context.Background(), os.Getenv); err != nil {
		fmt.Fprintln(os.Stderr, "orders:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, getenv func(string) string) error {
	pool, err := pgxpool.New(ctx, getenv("DATABASE_URL"))
	if err != nil {
		return fmt.Errorf("DATABASE_URL: %w", err)
	}
	defer pool.Close()
	config, err := awsconfig.LoadDefaultConfig(ctx)
	if err != nil {
		return fmt.Errorf("reading AWS's settings: %w", err)
	}
	s := &service{pool: pool, queue: sqs.NewFromConfig(config), queueURL: getenv("QUEUE_URL")}
	return http.ListenAndServe("127.0.0.1:8080", s)
}

type service struct {
	pool     *pgxpool.Pool
	queue    *sqs.Client
	queueURL string
}

type order struct {
	ID   int64  `json:"id"`
	Item string `json:"item"`
}

// ServeHTTP answers POST /orders {"item": "teapot"}.
func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost || r.URL.Path != "/orders" {
		http.NotFound(w, r)
		return
	}
	var o order
	if err := json.NewDecoder(r.Body).Decode(&o); err != nil || o.Item == "" {
		http.Error(w, `wants {"item": "teapot"}`, http.StatusBadRequest)
		return
	}
	if err := s.place(r.Context(), &o); err != nil {
		slog.Error("placing an order", "error", err)
		http.Error(w, "try again later", http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(o)
}

// place writes the order and announces it.
func (s *service) place(ctx context.Context, o *order) error {
	err := s.pool.QueryRow(ctx, `INSERT INTO orders (item) VALUES ($1) RETURNING id`, o.Item).Scan(&o.ID)
	if err != nil {
		return fmt.Errorf("inserting the order: %w", err)
	}
	payload, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("encoding the order: %w", err)
	}
	// The order is committed. If the process dies here, or SQS does not answer, it is never
	// announced. If SQS answers too late, the customer orders twice.
	_, err = s.queue.SendMessage(ctx,
		&sqs.SendMessageInput{QueueUrl: &s.queueURL, MessageBody: aws.String(string(payload))})
	if err != nil {
		return fmt.Errorf("announcing order %d: %w", o.ID, err)
	}
	return nil
}
