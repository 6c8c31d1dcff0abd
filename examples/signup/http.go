package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/mail"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outboxdb/wait"
)

const (
	maxBody  = 64 << 10
	maxName  = 100 // characters
	maxEmail = 254 // bytes; RFC 5321, section 4.5.3.1.3, without the angle brackets

	// signUpTimeout bounds a transaction: a connection may be dead.
	signUpTimeout = 10 * time.Second
	// waitTimeout bounds the wait for a welcome e-mail. It is shorter than shutdownTimeout.
	waitTimeout     = 3 * time.Second
	shutdownTimeout = 5 * time.Second
)

// answer is the body of every response except an internal error.
type answer struct {
	User     *user       `json:"user,omitempty"`
	Messages []uuid.UUID `json:"messages,omitempty"`
	// WelcomeEmail is the state of the second message, for a request with ?wait=1.
	WelcomeEmail outflow.State `json:"welcome_email,omitempty"`
	Errors       []problem     `json:"errors,omitempty"`
}

// problem says what a field of the request wants.
type problem struct {
	Field string `json:"field"`
	Wants string `json:"wants"`
}

// newHandler answers POST /users at once, or with ?wait=1 when the e-mail is in its queue. The
// sign-up is committed before the wait: the answer is 201, however the wait ends.
func newHandler(s *signUps, waiter *wait.Waiter, timeout time.Duration, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /users", func(w http.ResponseWriter, r *http.Request) {
		name, email, problems := readRequest(w, r)
		if len(problems) > 0 {
			reply(w, http.StatusBadRequest, answer{Errors: problems})
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), signUpTimeout)
		defer cancel()
		u, messages, err := s.signUp(ctx, name, email)
		switch {
		case errors.Is(err, errEmailTaken):
			reply(w, http.StatusConflict, answer{Errors: []problem{{"email", "an address that is not signed up yet"}}})
		case err != nil:
			log.Error("signing up", "error", err)
			http.Error(w, "internal error", http.StatusInternalServerError)
		default:
			created := answer{User: &u, Messages: messages}
			if r.URL.Query().Get("wait") == "1" {
				ctx, cancel := context.WithTimeout(ctx, timeout)
				defer cancel()
				outcome, err := waiter.Wait(ctx, messages[1])
				if err != nil {
					log.Warn("waiting for the welcome e-mail", "message", messages[1], "error", err)
				}
				created.WelcomeEmail = outcome.State
			}
			reply(w, http.StatusCreated, created)
		}
	})
	return mux
}

func readRequest(w http.ResponseWriter, r *http.Request) (name, email string, problems []problem) {
	var request struct{ Name, Email string }
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err == nil {
		err = json.Unmarshal(body, &request)
	}
	if err != nil {
		wants := fmt.Sprintf(`JSON such as {"name": "Ada", "email": "ada@example.com"} (%v)`, err)
		return "", "", []problem{{"body", wants}}
	}
	name, email = strings.TrimSpace(request.Name), strings.TrimSpace(request.Email)
	length := utf8.RuneCountInString(name)
	if length == 0 || length > maxName || strings.ContainsFunc(name, unicode.IsControl) {
		problems = append(problems, problem{"name", fmt.Sprintf("1 to %d printable characters", maxName)})
	}
	// ParseAddress also accepts "Ada <ada@example.com>".
	if parsed, err := mail.ParseAddress(email); err != nil || parsed.Address != email || len(email) > maxEmail {
		problems = append(problems, problem{"email", "an address such as ada@example.com"})
	}
	return name, email, problems
}

func reply(w http.ResponseWriter, status int, a answer) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(a) // fails where the client has closed the connection
}

// listenAndServe serves until ctx ends. It then finishes the requests in flight.
func listenAndServe(ctx context.Context, address string, handler http.Handler, out io.Writer) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	fmt.Fprintf(out, "listening on http://%s\n", listener.Addr())
	select {
	case err := <-failed:
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	return server.Shutdown(ctx)
}
