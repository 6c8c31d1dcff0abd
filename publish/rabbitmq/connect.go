package rabbitmq

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	// The waits between two tries to connect: from the first failure on doubled, up to the most.
	// Somebody waits for each: nobody connects where nothing is published.
	firstWait = 50 * time.Millisecond
	mostWait  = time.Second
	// heartbeat has a connection that died silently noticed after 15 s: the client library waits
	// for one and a half. 5 to 20 s are right for most networks.
	// https://www.rabbitmq.com/docs/heartbeats#heartbeats-timeout
	heartbeat = 10 * time.Second
	// rotateWait lies between two tries to connect to a new address while the old one works.
	rotateWait = 15 * time.Second
)

// connector makes the one connection, when somebody needs it.
type connector struct {
	dialing  *dialing
	failures int
	last     error // of the last try; nil where it succeeded
	next     time.Time
	rotate   time.Time // when a new address is tried next
	warned   string    // of a new address that does not work
}

// dialing is a try to connect, which concurrent callers share. It has a deadline of its own and no
// caller's context: the next callers have a connection that takes longer than this one may wait.
type dialing struct {
	done    chan struct{}
	session *session
	err     error
}

var (
	errClosed = errors.New("the publisher is closed")
	errNotYet = errors.New("the connection is made beside this attempt")
)

// connected returns the connection, and waits for it where it is being made.
func (p *Publisher) connected(t preparing) (*session, error) {
	address := p.address()
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, notAttempted(t.doing, errClosed)
	}
	if s := p.current; s != nil && !s.ended() {
		defer p.mu.Unlock()
		switch {
		case s.address == address:
			p.warned = ""
		case p.dialing == nil && time.Now().After(p.rotate): // it must work before it replaces the one in use
			p.rotate = time.Now().Add(rotateWait)
			p.dial(address)
		}
		return s, nil
	}
	d := p.dialing
	if d == nil {
		d = p.dial(address)
	}
	last := p.last
	p.mu.Unlock()
	select {
	case <-d.done:
		return d.session, d.err
	case <-t.until.Done():
		return nil, t.late(last, errNotYet)
	}
}

// dial begins a try to connect. It runs under the lock.
func (p *Publisher) dial(address Address) *dialing {
	d := &dialing{done: make(chan struct{})}
	p.dialing = d
	wait := time.NewTimer(time.Until(p.next))
	p.work.Go(func() {
		defer wait.Stop()
		select {
		case <-wait.C:
		case <-p.ctx.Done():
		}
		s, err := p.open(address)
		p.settle(d, s, err)
		if err != nil {
			p.warn(err)
		}
	})
	return d
}

// warn logs why a new address does not work. No message fails of it, and so nobody else says it.
func (p *Publisher) warn(err error) {
	p.mu.Lock()
	silent := p.closed || p.current == nil || p.current.ended() || p.warned == err.Error()
	if !silent {
		p.warned = err.Error()
	}
	p.mu.Unlock()
	if !silent {
		log := cmp.Or(p.log.Load(), slog.Default())
		log.Warn("RabbitMQ's new address does not work; the old connection stays in use", "error", err)
	}
}

// settle ends a try: a new connection replaces the one before, whose messages are waited for.
func (p *Publisher) settle(d *dialing, s *session, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer close(d.done)
	p.dialing, p.last = nil, err
	d.session, d.err = s, err
	if err != nil {
		wait := min(firstWait<<min(p.failures, 10), mostWait)
		p.next = time.Now().Add(wait/2 + rand.N(wait/2))
		p.failures++
		return
	}
	// A broker that closes each connection at once is not asked for the next at once.
	p.failures, p.next = 0, time.Now().Add(firstWait)
	old := p.current
	p.current = s
	if old != nil {
		p.work.Go(func() {
			ctx, cancel := context.WithTimeout(p.draining, p.timeout)
			defer cancel()
			old.close(ctx)
		})
	}
	if p.closed {
		p.work.Go(func() { s.close(p.draining) })
	}
}

// open connects. The end of the publisher ends it at once.
func (p *Publisher) open(address Address) (*session, error) {
	limit := address.timeout(p.timeout)
	ctx, cancel := context.WithTimeout(p.ctx, limit)
	defer cancel()
	var w *wire
	goesOn := func() bool { return true } // the publisher's end has not closed the socket
	properties := amqp.NewConnectionProperties()
	properties.SetClientConnectionName("outflow")
	conn, err := amqp.DialConfig(address.withoutTLS(), amqp.Config{
		Heartbeat:  heartbeat,               // the address may have another
		FrameSize:  amqp.FrameSizeUnlimited, // the broker's own limit counts
		Properties: properties,
		Dial: func(network, _ string) (net.Conn, error) {
			config, err := address.tls()
			if err != nil {
				return nil, err
			}
			dialed, err := new(net.Dialer).DialContext(ctx, network, address.hostPort())
			if err != nil {
				return nil, err
			}
			raw := &socket{Conn: dialed}
			w = newWire(raw)
			goesOn = context.AfterFunc(p.ctx, func() { _ = raw.Close() })
			deadline, _ := ctx.Deadline() // of TLS and the handshake; the library takes it away
			if err := raw.SetDeadline(deadline); err != nil || config == nil {
				return w, err
			}
			return w, w.secure(ctx, config)
		},
	})
	if goesOn() && err == nil {
		w.ready.Store(true)
		return newSession(address, conn, w.raw, p.settings), nil
	}
	if w != nil {
		var n net.Error
		if err = w.reason(err); errors.As(err, &n) && n.Timeout() {
			err = fmt.Errorf("no answer within %s", limit)
		}
		_ = w.raw.Close() // it ends what the library left running
	}
	if p.ctx.Err() != nil {
		return nil, notAttempted("connecting to "+address.String(), errClosed)
	}
	return nil, connecting(address, err)
}
