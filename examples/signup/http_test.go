package main

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb/outboxtest"
	"github.com/outflowhq/outflow/outboxdb/wait"
)

// newService returns the service's handler on a database of its own.
func newService(t *testing.T) (http.Handler, *pgxpool.Pool) {
	t.Helper()
	return newServiceThatWaits(t, waitTimeout)
}

func newServiceThatWaits(t *testing.T, timeout time.Duration) (http.Handler, *pgxpool.Pool) {
	t.Helper()
	pool := teststack.New(t)
	_, err := pool.Exec(t.Context(), createUsers)
	require.NoError(t, err)
	waiter := wait.New(pool)
	t.Cleanup(waiter.Close)
	return newHandler(&signUps{pool: pool}, waiter, timeout, slog.New(slog.DiscardHandler)), pool
}

func post(t *testing.T, service http.Handler, body string) (int, answer) {
	t.Helper()
	return postTo(t, service, "/users", body)
}

func postTo(t *testing.T, service http.Handler, path, body string) (int, answer) {
	t.Helper()
	w := httptest.NewRecorder()
	service.ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, strings.NewReader(body)))
	var a answer
	if strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") {
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &a), w.Body)
	}
	return w.Code, a
}

func count(t *testing.T, pool *pgxpool.Pool, table string) (n int) {
	t.Helper()
	require.NoError(t, pool.QueryRow(t.Context(), "SELECT count(*) FROM "+table).Scan(&n))
	return n
}

func TestSignUpWritesOneUserAndTwoMessages(t *testing.T) {
	service, pool := newService(t)
	status, a := post(t, service, `{"name": " Ada ", "email": "ada@example.com"}`)
	require.Equal(t, http.StatusCreated, status)
	assert.Equal(t, "Ada <ada@example.com>", a.User.String())
	assert.Equal(t, 1, count(t, pool, "users"))

	rows, err := pool.Query(t.Context(), `
		SELECT id::text, destination, type, payload FROM outbox.messages ORDER BY seq`)
	require.NoError(t, err)
	type row struct {
		ID, Destination, Type string
		Payload               []byte
	}
	messages, err := pgx.CollectRows(rows, pgx.RowToStructByName[row])
	require.NoError(t, err)
	require.Len(t, messages, 2)
	require.Len(t, a.Messages, 2)
	for i, name := range []string{"user-registered", "welcome-email"} {
		assert.Equal(t, a.Messages[i].String(), messages[i].ID)
		assert.Equal(t, "sqs://"+name, messages[i].Destination)
		assert.Equal(t, name, messages[i].Type)
		var u user
		require.NoError(t, json.Unmarshal(messages[i].Payload, &u))
		assert.Equal(t, a.User.ID, u.ID)
		assert.Equal(t, "ada@example.com", u.Email)
	}
}

// A request that waits is answered when the e-mail's message has ended, or after the timeout
// with its state pending.
func TestSignUpWaitsForTheEmail(t *testing.T) {
	service, pool := newServiceThatWaits(t, time.Minute)
	dispatched := make(chan error, 1)
	go func() {
		for {
			tag, err := pool.Exec(t.Context(),
				`UPDATE outbox.messages SET state = 'delivered', finished_at = now() WHERE type = 'welcome-email'`)
			if err != nil || tag.RowsAffected() == 1 {
				dispatched <- err
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	status, a := postTo(t, service, "/users?wait=1", `{"name": "Ada", "email": "ada@example.com"}`)
	require.NoError(t, <-dispatched)
	assert.Equal(t, http.StatusCreated, status)
	assert.Equal(t, outflow.Delivered, a.WelcomeEmail)

	service, _ = newServiceThatWaits(t, 100*time.Millisecond)
	status, a = postTo(t, service, "/users?wait=1", `{"name": "Bob", "email": "bob@example.com"}`)
	assert.Equal(t, http.StatusCreated, status, "Bob is signed up")
	assert.Equal(t, outflow.Pending, a.WelcomeEmail)
	_, a = post(t, service, `{"name": "Eve", "email": "eve@example.com"}`)
	assert.Empty(t, a.WelcomeEmail, "the request did not wait")
}

// A third message starts the welcome workflow.
func TestSignUpStartsAWorkflow(t *testing.T) {
	pool := teststack.New(t)
	_, err := pool.Exec(t.Context(), createUsers)
	require.NoError(t, err)
	s := &signUps{pool: pool, workflow: "temporal://signup/Welcome"}
	u, messages, err := s.signUp(t.Context(), "Ada", "ada@example.com")
	require.NoError(t, err)
	require.Len(t, messages, 3)
	payload, err := json.Marshal(u)
	require.NoError(t, err)
	outboxtest.RequireEnqueued(t, pool,
		outflow.Message{Destination: "sqs://user-registered", Type: "user-registered", Payload: payload},
		outflow.Message{Destination: "sqs://welcome-email", Type: "welcome-email", Payload: payload},
		outflow.Message{Destination: "temporal://signup/Welcome", Type: "welcome-user", Payload: payload})
}

func TestDuplicateEmailLeavesNothing(t *testing.T) {
	service, pool := newService(t)
	post(t, service, `{"name": "Ada", "email": "ada@example.com"}`)
	status, a := post(t, service, `{"name": "Another Ada", "email": "ada@example.com"}`)
	assert.Equal(t, http.StatusConflict, status)
	assert.Equal(t, []problem{{"email", "an address that is not signed up yet"}}, a.Errors)
	assert.Equal(t, 1, count(t, pool, "users"))
	assert.Equal(t, 2, count(t, pool, "outbox.messages"))
}

// The second message is refused, after the user and the first message are written.
func TestFailingEnqueueLeavesNoUser(t *testing.T) {
	service, pool := newService(t)
	_, err := pool.Exec(t.Context(), `ALTER TABLE outbox.messages ADD CHECK (type <> 'welcome-email')`)
	require.NoError(t, err)
	status, _ := post(t, service, `{"name": "Ada", "email": "ada@example.com"}`)
	assert.Equal(t, http.StatusInternalServerError, status)
	assert.Zero(t, count(t, pool, "users"))
	assert.Zero(t, count(t, pool, "outbox.messages"))
}

func TestBadInputIsRefusedByField(t *testing.T) {
	service, pool := newService(t)
	for name, tc := range map[string]struct {
		body   string
		fields []string
	}{
		"no JSON":    {`name=Ada`, []string{"body"}},
		"a list":     {`[]`, []string{"body"}},
		"two values": {`{} {}`, []string{"body"}},
		"too large":  {`{"name": "` + strings.Repeat("a", maxBody) + `"}`, []string{"body"}},
		"nothing":    {`{}`, []string{"name", "email"}},
		"blank name": {`{"name": "  ", "email": "ada@example.com"}`, []string{"name"}},
		"long name": {`{"name": "` + strings.Repeat("é", maxName+1) + `", "email": "ada@example.com"}`,
			[]string{"name"}},
		"control character": {`{"name": "A\u001bda", "email": "ada@example.com"}`, []string{"name"}},
		"NUL":               {`{"name": "A\u0000da", "email": "ada@example.com"}`, []string{"name"}},
		"no address":        {`{"name": "Ada", "email": "ada"}`, []string{"email"}},
		"name in address":   {`{"name": "Ada", "email": "Ada <ada@example.com>"}`, []string{"email"}},
		"long address": {`{"name": "Ada", "email": "` + strings.Repeat("a", maxEmail) + `@example.com"}`,
			[]string{"email"}},
	} {
		t.Run(name, func(t *testing.T) {
			status, a := post(t, service, tc.body)
			assert.Equal(t, http.StatusBadRequest, status)
			var fields []string
			for _, p := range a.Errors {
				fields = append(fields, p.Field)
				assert.NotEmpty(t, p.Wants)
			}
			assert.Equal(t, tc.fields, fields)
		})
	}
	assert.Zero(t, count(t, pool, "users"))
	assert.Zero(t, count(t, pool, "outbox.messages"))
}

func TestRunRefusesMistakes(t *testing.T) {
	for _, args := range [][]string{{}, {"sing"}, {"serve", "-port", "1"}, {"consume", "now"}} {
		var mistake usageError
		assert.ErrorAs(t, run(t.Context(), args, func(string) string { return "" }, io.Discard, io.Discard), &mistake,
			args)
	}
}
