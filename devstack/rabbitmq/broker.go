// Package rabbitmq runs one RabbitMQ node of its own from the programs it finds on the machine.
//
// The invariants: the node, and the port mapper that Erlang wants, listen on the loopback address
// alone and on ports of their own; both die with the process that started them, also on SIGKILL
// (Linux); and nothing outside of the node's folder is read or written, so that a RabbitMQ which
// the machine runs already is left alone.
package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/outflowhq/outflow/devstack/ports"
	"github.com/outflowhq/outflow/devstack/proc"
)

const (
	user     = "guest" // RabbitMQ's own, who may connect from this machine alone
	password = "guest"

	startTimeout = 2 * time.Minute // for a busy machine; a quiet one takes seconds
	stopTimeout  = time.Minute
	pollEvery    = 50 * time.Millisecond
)

// Options says what to start. Only Dir is required.
type Options struct {
	// Dir holds everything of the node. It is made where it is missing.
	Dir string
	// Port is the TCP port for AMQP, 0 for a free one.
	Port int
	// LogFile gets the node's log; default Dir + ".log".
	LogFile string
}

// Broker is a running node.
type Broker struct {
	options Options
	bin     string
	// The ports of Erlang's distribution, over which rabbitmqctl talks to the node, and of the
	// mapper that finds it by its name.
	distribution, mapper int

	epmd, node *proc.Process
}

// Start starts the node and returns once it answers an AMQP client. Data of an earlier node in the
// folder is kept.
func Start(ctx context.Context, o Options) (*Broker, error) {
	if o.LogFile == "" {
		o.LogFile = o.Dir + ".log"
	}
	var err error
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return nil, fmt.Errorf("resolving RabbitMQ's folder: %w", err)
	}
	b := &Broker{options: o}
	if b.bin, err = programs(); err != nil {
		return nil, err
	}
	if b.options.Port, err = ports.Or(o.Port); err != nil {
		return nil, fmt.Errorf("choosing RabbitMQ's port: %w", err)
	}
	for _, port := range []*int{&b.distribution, &b.mapper} {
		if *port, err = ports.Free(); err != nil {
			return nil, fmt.Errorf("choosing a port of Erlang's: %w", err)
		}
	}
	if err := b.prepare(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := b.launch(ctx); err != nil {
		return nil, errors.Join(err, b.Kill())
	}
	return b, nil
}

// URL is the AMQP URL of the default virtual host.
func (b *Broker) URL() string {
	u := url.URL{Scheme: "amqp", User: url.UserPassword(user, password), Host: b.Address(), Path: "/"}
	return u.String()
}

// Address is host and port for AMQP.
func (b *Broker) Address() string { return ports.Address(b.options.Port) }

// Port is the TCP port for AMQP.
func (b *Broker) Port() int { return b.options.Port }

// Options are those the node was started with, its port and its paths filled in: Start with them
// brings a stopped node back on the same data and port.
func (b *Broker) Options() Options { return b.options }

// Pid is the node's process ID.
func (b *Broker) Pid() int { return b.node.Pid() }

// Done is closed when the node has ended, for whatever reason.
func (b *Broker) Done() <-chan struct{} { return b.node.Done() }

// Control is a script that runs rabbitmqctl on this node.
func (b *Broker) Control() string { return filepath.Join(b.options.Dir, "rabbitmqctl") }

// Ctl runs rabbitmqctl on this node, and returns what it printed.
func (b *Broker) Ctl(ctx context.Context, args ...string) (string, error) {
	said, err := exec.CommandContext(ctx, b.Control(), args...).CombinedOutput()
	if err != nil {
		return string(said), fmt.Errorf("rabbitmqctl %s: %w: %s", strings.Join(args, " "), err, said)
	}
	return string(said), nil
}

// Stop shuts the node down orderly. One that is gone is no error.
func (b *Broker) Stop() error { return b.end(syscall.SIGTERM) }

// Kill ends the node with SIGKILL, as a crash does: the next Start recovers what was confirmed.
func (b *Broker) Kill() error { return b.end(syscall.SIGKILL) }

func (b *Broker) end(sig syscall.Signal) error {
	var errs []error
	for _, p := range []struct {
		process *proc.Process
		sig     syscall.Signal
	}{{b.node, sig}, {b.epmd, syscall.SIGKILL}} {
		if p.process == nil {
			continue
		}
		if err := p.process.Signal(p.sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
			errs = append(errs, fmt.Errorf("stopping RabbitMQ: %w", err))
			continue
		}
		select {
		case <-p.process.Done():
		case <-time.After(stopTimeout):
			_ = p.process.Signal(syscall.SIGKILL) // it may have ended by now
			<-p.process.Done()
			errs = append(errs, fmt.Errorf("stopping RabbitMQ: not done after %s", stopTimeout))
		}
	}
	return errors.Join(errs...)
}
