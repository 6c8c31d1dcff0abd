package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outboxdb"
)

// The messages of a sign-up. The first two have queues of their own, of the same names. The third
// starts a workflow.
const (
	userRegistered = "user-registered"
	welcomeEmail   = "welcome-email"
	welcomeUser    = "welcome-user"
)

// createUsers creates the service's own table. A real service has migrations.
const createUsers = `CREATE TABLE IF NOT EXISTS users (
	id            bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	name          text        NOT NULL,
	email         text        NOT NULL UNIQUE,
	registered_at timestamptz NOT NULL DEFAULT clock_timestamp())`

// insertUser returns no row where the e-mail address is taken: the transaction stays usable.
const insertUser = `INSERT INTO users (name, email) VALUES ($1, $2)
ON CONFLICT (email) DO NOTHING RETURNING id, registered_at`

// user is a row of users, the payload of the messages, and so the workflow's input.
type user struct {
	ID           int64     `json:"id"`
	Name         string    `json:"name"`
	Email        string    `json:"email"`
	RegisteredAt time.Time `json:"registered_at"`
}

func (u user) String() string { return fmt.Sprintf("%s <%s>", u.Name, u.Email) }

var errEmailTaken = errors.New("the e-mail address is signed up already")

// signUps writes sign-ups.
type signUps struct {
	pool *pgxpool.Pool
	// workflow is the destination that starts the welcome workflow; "" starts none.
	workflow string
}

// signUp is the pattern: the user and its messages are written in one transaction. So no user is
// without its messages, and no message without its user. signUp does not call SQS or Temporal,
// which may be down.
func (s *signUps) signUp(ctx context.Context, name, email string) (user, []uuid.UUID, error) {
	u := user{Name: name, Email: email}
	var messages []uuid.UUID
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, insertUser, name, email).Scan(&u.ID, &u.RegisteredAt)
		if errors.Is(err, pgx.ErrNoRows) {
			return errEmailTaken
		}
		if err != nil {
			return fmt.Errorf("inserting the user: %w", err)
		}
		payload, err := json.Marshal(u)
		if err != nil {
			return fmt.Errorf("encoding the user: %w", err)
		}
		all := []outflow.Message{
			{Destination: "sqs://" + userRegistered, Type: userRegistered, Payload: payload},
			{Destination: "sqs://" + welcomeEmail, Type: welcomeEmail, Payload: payload},
		}
		if s.workflow != "" {
			all = append(all, outflow.Message{Destination: s.workflow, Type: welcomeUser, Payload: payload})
		}
		messages, err = outboxdb.Enqueue(ctx, tx, all...)
		return err
	})
	return u, messages, err
}
