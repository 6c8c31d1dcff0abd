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

// The messages of a sign-up. Each has a queue of its own, of the same name.
const (
	userRegistered = "user-registered"
	welcomeEmail   = "welcome-email"
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

// user is a row of users, and the payload of both messages.
type user struct {
	ID           int64     `json:"id"`
	Name         string    `json:"name"`
	Email        string    `json:"email"`
	RegisteredAt time.Time `json:"registered_at"`
}

func (u user) String() string { return fmt.Sprintf("%s <%s>", u.Name, u.Email) }

var errEmailTaken = errors.New("the e-mail address is signed up already")

// signUp is the pattern: the user and both messages are written in one transaction. So no
// user is without its messages, and no message without its user. signUp does not call SQS,
// which may be down.
func signUp(ctx context.Context, pool *pgxpool.Pool, name, email string) (user, []uuid.UUID, error) {
	u := user{Name: name, Email: email}
	var messages []uuid.UUID
	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
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
		messages, err = outboxdb.Enqueue(ctx, tx,
			outflow.Message{Destination: "sqs://" + userRegistered, Type: userRegistered, Payload: payload},
			outflow.Message{Destination: "sqs://" + welcomeEmail, Type: welcomeEmail, Payload: payload},
		)
		return err
	})
	return u, messages, err
}
