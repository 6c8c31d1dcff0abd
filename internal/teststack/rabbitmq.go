package teststack

import (
	"context"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	amqpVariable       = "DEVSTACK_AMQP_URL"
	rabbitctlVariable  = "DEVSTACK_RABBITMQCTL"
	requiresRabbit     = "OUTFLOW_TEST_REQUIRES_RABBITMQ"
	rabbitctlTimeout   = time.Minute
	rabbitLockFileName = "tests.lock"
)

// RabbitMQ is devstack's RabbitMQ. Tests share its default virtual host: names are a test's own.
type RabbitMQ struct {
	t testing.TB
	// URL is the AMQP URL, Address its host and port.
	URL, Address string
	control      string
}

// NewRabbitMQ returns devstack's RabbitMQ. Without it the test is skipped; where
// OUTFLOW_TEST_REQUIRES_RABBITMQ is set, as in CI, it fails. While the test runs, no test of
// another process breaks the broker.
func NewRabbitMQ(t testing.TB) *RabbitMQ { return rabbitMQ(t, syscall.LOCK_SH) }

// AloneWithRabbitMQ is NewRabbitMQ for a test that breaks the broker, or changes its settings: no
// test of another process uses it meanwhile.
func AloneWithRabbitMQ(t testing.TB) *RabbitMQ { return rabbitMQ(t, syscall.LOCK_EX) }

func rabbitMQ(t testing.TB, lock int) *RabbitMQ {
	t.Helper()
	value, control := os.Getenv(amqpVariable), os.Getenv(rabbitctlVariable)
	switch {
	case value != "" && control != "":
	case os.Getenv(requiresRabbit) == "":
		t.Skip("there is no RabbitMQ: install it, and run the tests in \"devstack run --rabbitmq\"")
	default:
		t.Fatalf("%s is set, and %s is not: run the tests in \"devstack run --rabbitmq\"", requiresRabbit, amqpVariable)
	}
	u, err := url.Parse(value)
	require.NoError(t, err)
	requireLoopback(t, amqpVariable, u.Hostname())
	file, err := os.OpenFile(filepath.Join(filepath.Dir(control), rabbitLockFileName), os.O_CREATE|os.O_RDWR, 0o644)
	require.NoError(t, err)
	t.Cleanup(func() { _ = file.Close() }) // which unlocks it
	for err = syscall.EINTR; err == syscall.EINTR; {
		err = syscall.Flock(int(file.Fd()), lock)
	}
	require.NoError(t, err, "locking RabbitMQ")
	return &RabbitMQ{t: t, URL: value, Address: u.Host, control: control}
}

// Control runs rabbitmqctl, and returns what it printed.
func (b *RabbitMQ) Control(args ...string) string {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), rabbitctlTimeout) // cleanups need it, too
	defer cancel()
	said, err := exec.CommandContext(ctx, b.control, append([]string{"-q"}, args...)...).CombinedOutput()
	require.NoError(b.t, err, "rabbitmqctl %s: %s", strings.Join(args, " "), said)
	return strings.TrimSpace(string(said))
}
