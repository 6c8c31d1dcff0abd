package main

import (
	"bytes"
	"context"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

// output is the demo's output, which can be read while it is written.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// TestDemoOutlivesItsProcesses kills each process of the demo while people sign
// up. The demo starts it again and shows that nothing was lost.
func TestDemoOutlivesItsProcesses(t *testing.T) {
	pool := teststack.New(t)
	endpoint := httptest.NewServer(&fakesqs.Server{})
	defer endpoint.Close()
	for name, value := range map[string]string{
		"DATABASE_URL":          pool.Config().ConnString(),
		"TEMPORAL_ADDRESS":      teststack.Temporal(t),
		"TEMPORAL_NAMESPACE":    "default",
		"AWS_ENDPOINT_URL_SQS":  endpoint.URL,
		"AWS_REGION":            "eu-west-1",
		"AWS_ACCESS_KEY_ID":     "fake",
		"AWS_SECRET_ACCESS_KEY": "fake",
		"OUTFLOW_OUTBOX":        strings.ReplaceAll(pool.Config().ConnConfig.Database, "_", "-"),
		"OUTFLOW_LEASE":         "30s",
	} {
		t.Setenv(name, value)
	}
	ctx, fail := context.WithCancelCause(t.Context())
	defer fail(nil)
	said := &output{}
	d := &demo{bin: buildPrograms(t), pool: pool, namespace: "default", every: 250 * time.Millisecond,
		family: newFamily(said, said, fail)}
	defer func() {
		if t.Failed() {
			t.Log(said)
		}
	}()
	staying := make(chan error, 1)
	go func() { staying <- d.stay(ctx) }()
	see := func(text string, times int) {
		t.Helper()
		require.Eventually(t, func() bool {
			return ctx.Err() != nil || strings.Count(said.String(), text) >= times
		}, 2*time.Minute, 20*time.Millisecond, text)
		require.NoError(t, context.Cause(ctx))
	}
	see("welcome e-mail to ", 3)
	see("welcome workflow: ", 3)
	for i, end := range []struct {
		name string
		by   syscall.Signal
	}{
		{"starter", syscall.SIGKILL}, {"consumer", syscall.SIGKILL}, {"worker", syscall.SIGTERM},
		{"service", syscall.SIGTERM}, {"welcome", syscall.SIGKILL},
	} {
		currentProcess(t, d.family, end.name).signal(end.by)
		see("| runs again (pid ", i+1)
		require.Contains(t, said.String(), end.name+strings.Repeat(" ", 9-len(end.name))+"| runs again")
	}
	signedUp := strings.Count(said.String(), "signed up ")
	see("signed up ", signedUp+3)
	see("nothing was lost: the first ", 1)
	fail(nil)
	require.NoError(t, <-staying)
	d.counting.Wait()

	messages, err := d.awaitAll(t.Context())
	require.NoError(t, err)
	var users, emails, distinct int
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM users`).Scan(&users))
	require.NoError(t, pool.QueryRow(t.Context(),
		`SELECT count(*), count(DISTINCT message_id) FROM emails`).Scan(&emails, &distinct))
	var welcomes int
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM welcomes`).Scan(&welcomes))
	require.NoError(t, d.family.stop())
	require.Equal(t, users, welcomes)
	require.Equal(t, users, emails)
	require.Equal(t, users, distinct, "an e-mail was written twice")
	require.Equal(t, users*messagesEach, messages)
	t.Logf("%d sign-ups, an e-mail and a workflow each", users)
}

// buildPrograms builds the programs that the demo starts, as "make build" does.
func buildPrograms(t *testing.T) string {
	t.Helper()
	bin := t.TempDir()
	for name, folder := range map[string]string{
		"outflow": "cmd/outflow", "outflow-starter": "starter", "outflow-worker": "worker", "signup": "examples/signup",
	} {
		build := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(bin, name), "./"+folder)
		build.Dir, build.Env = "../../..", append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0")
		text, err := build.CombinedOutput()
		require.NoError(t, err, "%s", text)
	}
	return bin
}
