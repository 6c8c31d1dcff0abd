package main

import (
	"bytes"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/outflowhq/outflow/devstack/rabbitmq"
)

// requireRabbitMQ is set where RabbitMQ must be there, as in CI. Elsewhere its test is skipped
// without.
const requireRabbitMQ = "OUTFLOW_TEST_REQUIRES_RABBITMQ"

// TestRabbitMQ: the env file leads to it, and a killed stack leaves nothing of it.
func TestRabbitMQ(t *testing.T) {
	if !rabbitmq.Installed() && os.Getenv(requireRabbitMQ) == "" {
		t.Skip("RabbitMQ is not installed: " + rabbitmq.HowToInstall)
	}
	i := launch(t, rootOnly(t), nil, "up", "--ephemeral", "--rabbitmq")
	env := i.env(t)
	if env["AMQP_URL"] == "" || env["AMQP_URL"] != env["DEVSTACK_AMQP_URL"] {
		t.Fatalf("the env file has no AMQP_URL: %v", env)
	}
	if said, err := exec.Command(env["DEVSTACK_RABBITMQCTL"], "-q", "list_vhosts").CombinedOutput(); err != nil {
		t.Errorf("rabbitmqctl: %v: %s", err, said)
	}
	u, err := url.Parse(env["AMQP_URL"])
	if err != nil {
		t.Fatal(err)
	}
	if closed(u.Host) {
		t.Fatalf("nothing listens on %s", u.Host)
	}
	i.end(t, syscall.SIGKILL)
	eventually(t, "the end of RabbitMQ", func() bool { return closed(u.Host) })
}

// TestRabbitMQWhereItIsInstalled: a machine without it has a stack without it, and one line says how
// to get it.
func TestRabbitMQWhereItIsInstalled(t *testing.T) {
	o, _, err := parseFlags("run", []string{"--rabbitmq=if-installed", "--rabbitmq-port", "5999"})
	if err != nil || o.RabbitMQ != rabbitmq.Installed() || o.RabbitMQPort != 5999 {
		t.Errorf("--rabbitmq=if-installed: %+v, %v", o, err)
	}
	if o, _, err := parseFlags("run", []string{"--rabbitmq"}); err != nil || !o.RabbitMQ {
		t.Errorf("--rabbitmq: %+v, %v", o, err)
	}
	if _, _, err := parseFlags("run", []string{"--rabbitmq=perhaps"}); err == nil {
		t.Error("--rabbitmq=perhaps is accepted")
	}
	var said bytes.Buffer
	if err := run(t.Context(), []string{"missing"}, nil, &said, &said); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(said.String(), "\n"); (lines == 0) != rabbitmq.Installed() || lines > 1 {
		t.Errorf("missing says %q", said.String())
	}
}
