package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/outflowhq/outflow/devstack/ports"
	"github.com/outflowhq/outflow/devstack/proc"
)

// nodeName is that of the node within its own port mapper, where no other node is.
const nodeName = "outflow@localhost"

// loopbackOnly has Erlang's distribution listen on the loopback address, and start no port mapper.
const loopbackOnly = "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}"

func (b *Broker) path(name string) string { return filepath.Join(b.options.Dir, name) }

// prepare writes what the node reads.
func (b *Broker) prepare() error {
	for _, dir := range []string{b.path("home"), b.path("log"), filepath.Dir(b.options.LogFile)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("making RabbitMQ's folder: %w", err)
		}
	}
	for _, file := range []struct {
		name, content string
		mode          os.FileMode
	}{
		{"rabbitmq.conf", "listeners.tcp.local = " + b.Address() + "\n", 0o644},
		{"enabled_plugins", "[].\n", 0o644},
		{"rabbitmqctl", b.controlScript(), 0o755},
	} {
		if err := os.WriteFile(b.path(file.name), []byte(file.content), file.mode); err != nil {
			return fmt.Errorf("preparing RabbitMQ: %w", err)
		}
	}
	return nil
}

// controlScript runs rabbitmqctl, which finds the node by its name and knows it by its cookie.
func (b *Broker) controlScript() string {
	var s strings.Builder
	s.WriteString("#!/bin/sh\n# Written by devstack: rabbitmqctl for its own node.\n")
	for _, kv := range append(b.env(), "RABBITMQ_CTL_ERL_ARGS="+loopbackOnly) {
		name, value, _ := strings.Cut(kv, "=")
		s.WriteString("export " + name + "='" + strings.ReplaceAll(value, "'", `'\''`) + "'\n")
	}
	s.WriteString("exec '" + filepath.Join(b.bin, "rabbitmqctl") + "' \"$@\"\n")
	return s.String()
}

// env is the environment of the node and of rabbitmqctl: nothing of this process's own reaches
// them.
// https://www.rabbitmq.com/docs/configure#supported-environment-variables
func (b *Broker) env() []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8", "LC_ALL=C.UTF-8", "TMPDIR=" + os.TempDir(),
		"HOME=" + b.path("home"), // where Erlang keeps the cookie
		"ERL_EPMD_PORT=" + strconv.Itoa(b.mapper), "ERL_EPMD_ADDRESS=" + ports.Loopback,
		"RABBITMQ_NODENAME=" + nodeName, "RABBITMQ_USE_LONGNAME=false",
		"RABBITMQ_CONF_ENV_FILE=" + b.path("rabbitmq-env.conf"), // there is none
	}
}

// launch starts the port mapper and the node, and waits until the node answers.
func (b *Broker) launch(ctx context.Context) error {
	log, err := os.OpenFile(b.options.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("opening RabbitMQ's log: %w", err)
	}
	defer log.Close()
	from, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("reading the end of RabbitMQ's log: %w", err)
	}
	start := func(env []string, name string, args ...string) (*proc.Process, error) {
		cmd := exec.Command(name, args...)
		cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = b.options.Dir, env, log, log
		// A signal to devstack's process group must not end the node under the command that
		// still uses it.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		return proc.Start(cmd, syscall.SIGKILL)
	}
	// In the foreground: Erlang itself would start it as a daemon, which outlives everybody.
	if b.epmd, err = start(b.env(), "epmd", "-address", ports.Loopback, "-port", strconv.Itoa(b.mapper)); err != nil {
		return err
	}
	if b.node, err = start(append(b.env(), b.nodeEnv()...), filepath.Join(b.bin, "rabbitmq-server")); err != nil {
		return err
	}
	if err := b.awaitAnswer(ctx); err != nil {
		return fmt.Errorf("starting RabbitMQ: %w: %s", err, proc.LogSince(b.options.LogFile, from))
	}
	return nil
}

func (b *Broker) nodeEnv() []string {
	return []string{
		// Has the script become the node, so that the signal at our end reaches it, not a shell.
		"RUNNING_UNDER_SYSTEMD=true",
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=" + loopbackOnly,
		"RABBITMQ_DIST_PORT=" + strconv.Itoa(b.distribution),
		"RABBITMQ_MNESIA_BASE=" + b.path("data"), "RABBITMQ_LOG_BASE=" + b.path("log"), "RABBITMQ_LOGS=-",
		"RABBITMQ_GENERATED_CONFIG_DIR=" + b.path("config"), "RABBITMQ_CONFIG_FILE=" + b.path("rabbitmq.conf"),
		"RABBITMQ_ADVANCED_CONFIG_FILE=" + b.path("advanced.config"), // there is none
		"RABBITMQ_ENABLED_PLUGINS_FILE=" + b.path("enabled_plugins"), "RABBITMQ_PID_FILE=" + b.path("pid"),
	}
}

// awaitAnswer waits until the node begins the handshake of AMQP.
func (b *Broker) awaitAnswer(ctx context.Context) error {
	for {
		err := greet(ctx, b.Address())
		if err == nil {
			return nil
		}
		select {
		case <-b.node.Done():
			return fmt.Errorf("the node ended: %w", errors.Join(b.node.Err(), err))
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(pollEvery):
		}
	}
}

// greet sends the protocol's header and wants the beginning of a frame.
func greet(ctx context.Context, address string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("AMQP\x00\x00\x09\x01")); err != nil {
		return err
	}
	answer := make([]byte, 1)
	if _, err := conn.Read(answer); err != nil {
		return err
	}
	if answer[0] != 1 {
		return fmt.Errorf("no AMQP 0-9-1: %q", answer)
	}
	return nil
}
