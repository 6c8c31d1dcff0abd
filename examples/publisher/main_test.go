package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/outboxdb/migrate"

	"example.com/publisher/files"
)

// TestTheProgramDelivers enqueues a message to a file, and reads it there. "make test" has the
// servers.
func TestTheProgramDelivers(t *testing.T) {
	pool := outbox(t)
	folder := t.TempDir()
	orders := filepath.Join(folder, "orders.jsonl")
	if err := os.WriteFile(orders, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, pool.Config().ConnString(), folder) }()

	sent := outflow.Message{Destination: "x-file://orders", Type: "order-placed", Payload: []byte(`{"id":42}`)}
	var ids []uuid.UUID
	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) (err error) {
		ids, err = outboxdb.Enqueue(ctx, tx, sent)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var line []byte
	for len(line) == 0 {
		select {
		case err := <-ended:
			t.Fatalf("the program ended: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
		if line, err = os.ReadFile(orders); err != nil {
			t.Fatal(err)
		}
	}
	if m, err := files.Decode(line); err != nil || m.ID != ids[0] || string(m.Payload) != string(sent.Payload) {
		t.Errorf("the file has %s (%v)", line, err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// outbox returns a database of its own, with the outbox.
func outbox(t *testing.T) *pgxpool.Pool {
	t.Helper()
	server := os.Getenv("DEVSTACK_DATABASE_URL")
	if server == "" {
		t.Skip("DEVSTACK_DATABASE_URL is not set: run the tests with \"make test\"")
	}
	admin, err := pgx.Connect(t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = admin.Close(context.Background()) })
	name := fmt.Sprintf("publisher_%d", time.Now().UnixNano())
	if _, err := admin.Exec(t.Context(), "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
	address, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	address.Path = "/" + name
	pool, err := pgxpool.New(t.Context(), address.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		pool.Close()
		_, _ = admin.Exec(context.Background(), "DROP DATABASE "+name+" WITH (FORCE)")
	})
	if _, err := migrate.Up(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	return pool
}
