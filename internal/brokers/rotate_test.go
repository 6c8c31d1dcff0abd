package brokers

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// awsServer accepts one access key, which may change, and has every queue.
func awsServer(t *testing.T, code string) (url string, key *atomic.Value) {
	t.Helper()
	key = new(atomic.Value)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/x-amz-json-1.0")
		if !strings.Contains(r.Header.Get("Authorization"), "Credential="+key.Load().(string)+"/") {
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprintf(w, `{"__type":"com.amazon.coral.service#%s","message":"refused"}`, code)
			return
		}
		fmt.Fprint(w, `{"QueueUrl":"http://localhost/1/orders"}`)
	}))
	t.Cleanup(server.Close)
	return server.URL, key
}

// TestAWSCredentialsRotate: the SDK by itself reads files once, and keeps credentials without an
// expiry for as long as it runs.
func TestAWSCredentialsRotate(t *testing.T) {
	write := func(t *testing.T, file, text string, mode os.FileMode) {
		t.Helper()
		require.NoError(t, os.WriteFile(file, []byte(text), mode))
	}
	shared := func(key string) string {
		return "[default]\naws_access_key_id = " + key + "\naws_secret_access_key = secret\n"
	}
	for name, code := range map[string]string{
		"a file that is rewritten": "UnrecognizedClientException", "a token that ended": "ExpiredToken",
		"a key of another role": "AccessDenied", "a wrong secret": "InvalidSignatureException",
		"a file that comes late": "", "a process without an expiry": "InvalidClientTokenId",
	} {
		t.Run(name, func(t *testing.T) {
			url, key := awsServer(t, code)
			folder := t.TempDir()
			file, profile := filepath.Join(folder, "credentials"), filepath.Join(folder, "config")
			t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
			for _, variable := range []string{"AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
				"AWS_SESSION_TOKEN"} {
				t.Setenv(variable, "")
			}
			t.Setenv("AWS_REGION", "eu-west-1")
			t.Setenv("AWS_ENDPOINT_URL_SQS", url)
			t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
			t.Setenv("AWS_CONFIG_FILE", profile)
			rotate := func(key string) { write(t, file, shared(key), 0o600) }
			if strings.Contains(name, "process") {
				t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
				write(t, profile, "[default]\ncredential_process = /bin/cat "+file+"\n", 0o600)
				rotate = func(key string) {
					write(t, file, `{"Version":1,"AccessKeyId":"`+key+`","SecretAccessKey":"secret"}`, 0o600)
				}
			}
			if code != "" {
				rotate("OLD")
			}
			c, err := loadAWS(t.Context(), os.Getenv, "AWS_ENDPOINT_URL_SQS")
			require.NoError(t, err)
			c.RetryMaxAttempts = 1
			queues := sqs.NewFromConfig(c)
			ask := func() error {
				_, err := queues.GetQueueUrl(t.Context(), &sqs.GetQueueUrlInput{QueueName: aws.String("orders")})
				return err
			}
			key.Store("OLD")
			if code == "" {
				require.ErrorContains(t, ask(), "get identity")
			} else {
				require.NoError(t, ask())
			}
			key.Store("NEW")
			rotate("NEW")
			if code != "" {
				require.ErrorContains(t, ask(), code, "nothing was known of a new one")
			}
			require.NoError(t, ask())
		})
	}
}

// TestWebhookSecretsRotate: a file takes effect where it is complete and correct.
func TestWebhookSecretsRotate(t *testing.T) {
	const second = "whsec_ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="
	file := filepath.Join(t.TempDir(), "secrets")
	write := func(text string, age time.Duration) {
		t.Helper()
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		require.NoError(t, os.Chtimes(file, time.Now(), time.Now().Add(-age)))
	}
	write("a.example.com "+goodSecret+"\n", time.Minute)
	c, err := loadWebhooks(t, map[string]string{"OUTFLOW_WEBHOOK_HOSTS": "a.example.com",
		"OUTFLOW_WEBHOOK_SECRETS_FILE": file})
	require.NoError(t, err)
	var said lines
	c.WarnTo(slog.New(slog.NewTextHandler(&said, nil)))
	has := func(n int) func() bool { return func() bool { return len(c.Webhook.Secrets("a.example.com")) == n } }
	require.True(t, has(1)())

	write("a.example.com "+goodSecret+" "+second+"\n", time.Minute)
	require.Eventually(t, has(2), time.Minute, 50*time.Millisecond)
	write("a.example.com hunter2\n", time.Minute)
	require.Eventually(t, func() bool {
		return has(2)() &&
			strings.Contains(said.String(), "OUTFLOW_WEBHOOK_SECRETS_FILE")
	}, time.Minute, 50*time.Millisecond)
	require.NoError(t, os.Remove(file))
	require.Eventually(t, func() bool { return has(2)() && strings.Contains(said.String(), "no such file") },
		time.Minute, 50*time.Millisecond)
	assert.Equal(t, 2, strings.Count(said.String(), "\n"), "once each:\n%s", &said)
	assert.NotContains(t, said.String(), "hunter2")

	for range 30 { // longer than an answer is kept, by a program that still writes
		began := time.Now()
		write("", 0)
		kept := has(2)()
		require.True(t, kept || time.Since(began) > 900*time.Millisecond)
		time.Sleep(50 * time.Millisecond)
	}
	write("a.example.com "+second+"\n", time.Minute)
	require.Eventually(t, has(1), time.Minute, 50*time.Millisecond)
}

// A secret that comes through a pipe is read once.
func TestSecretsFromAPipe(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	_, err = io.WriteString(w, "a.example.com "+goodSecret+"\n")
	require.NoError(t, err)
	require.NoError(t, w.Close())
	c, err := loadWebhooks(t, map[string]string{"OUTFLOW_WEBHOOK_HOSTS": "a.example.com",
		"OUTFLOW_WEBHOOK_SECRETS_FILE": fmt.Sprintf("/dev/fd/%d", r.Fd())})
	require.NoError(t, err)
	require.Never(t, func() bool { return len(c.Webhook.Secrets("a.example.com")) != 1 }, 1500*time.Millisecond,
		100*time.Millisecond)

	_, err = loadWebhooks(t, map[string]string{"OUTFLOW_WEBHOOK_HOSTS": "a.example.com",
		"OUTFLOW_WEBHOOK_SECRETS_FILE": "/dev/zero"})
	require.ErrorContains(t, err, "OUTFLOW_WEBHOOK_SECRETS_FILE: wants a file of at most 1048576 bytes")
}

// lines is a log.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
