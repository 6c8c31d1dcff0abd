// Package amqprelay stands between a client and a RabbitMQ, for tests. It remembers each message
// that passes and what became of its confirm, and it can lose confirms, delay them and cut
// connections.
//
// The invariant: what no fault changes passes unchanged and in its order, and a copy counts as
// answered only where its confirm was written to the client.
package amqprelay

import (
	"bufio"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"
)

// Copy is a message as it was once sent to RabbitMQ.
type Copy struct {
	MessageID, Exchange, RoutingKey string
	Sent                            time.Time
	// Answered is when its confirm was passed on; zero where none was. CutAt is when its
	// connection ended; zero while it is open.
	Answered, CutAt time.Time
	// Refused says that the answer was a nack, Returned that no queue got it.
	Refused, Returned bool
}

// Heard reports whether the client had the confirm for a while before its connection ended: one
// that is written a moment before that may be lost on the way.
func (c Copy) Heard() bool {
	const onItsWay = 250 * time.Millisecond
	return !c.Answered.IsZero() && (c.CutAt.IsZero() || c.CutAt.Sub(c.Answered) > onItsWay)
}

// Relay passes connections on to one RabbitMQ. It is safe for concurrent use.
type Relay struct {
	upstream string
	listener net.Listener
	work     sync.WaitGroup

	mu     sync.Mutex
	copies []*Copy
	open   map[*link]bool
	shut   bool
	lost   map[string]int           // of how many confirms one is lost, by exchange
	delays map[string]time.Duration // by exchange
}

// New listens on a free port of the loopback address and passes on to upstream, a host and port.
func New(upstream string) (*Relay, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &Relay{upstream: upstream, listener: listener, open: map[*link]bool{}, lost: map[string]int{},
		delays: map[string]time.Duration{}}
	r.work.Go(r.accept)
	return r, nil
}

// Address is where clients connect to.
func (r *Relay) Address() string { return r.listener.Addr().String() }

// Close ends the relay with its connections.
func (r *Relay) Close() {
	_ = r.listener.Close()
	r.Shut()
	r.work.Wait()
}

// Cut ends all connections. New ones are passed on.
func (r *Relay) Cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut()
}

func (r *Relay) cut() {
	for l := range r.open {
		l.end()
	}
}

// Shut ends all connections, and new ones at once, until Open.
func (r *Relay) Shut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.shut = true
	r.cut()
}

// Open passes connections on again.
func (r *Relay) Open() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.shut = false
}

// LoseConfirms has each connection end where a confirm for the exchange comes: RabbitMQ has the
// message, and the client does not hear of it.
func (r *Relay) LoseConfirms(exchange string) { r.LoseOneIn(exchange, 1) }

// LoseOneIn is LoseConfirms for one confirm in n, by chance.
func (r *Relay) LoseOneIn(exchange string, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lost[exchange] = n
}

// Delay has confirms for the exchange come so much later.
func (r *Relay) Delay(exchange string, by time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.delays[exchange] = by
}

// Heal ends what LoseConfirms, LoseOneIn and Delay did to an exchange.
func (r *Relay) Heal(exchange string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.lost, exchange)
	delete(r.delays, exchange)
}

// Copies are all that passed, in their order.
func (r *Relay) Copies() []Copy {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []Copy
	for _, c := range r.copies {
		all = append(all, *c)
	}
	return all
}

// Unanswered counts the copies that were sent on open connections and have no confirm yet.
func (r *Relay) Unanswered() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.copies {
		if c.Answered.IsZero() && c.CutAt.IsZero() {
			n++
		}
	}
	return n
}

func (r *Relay) accept() {
	for {
		client, err := r.listener.Accept()
		if err != nil {
			return
		}
		r.work.Go(func() { r.pass(client) })
	}
}

// pass connects a client with the server until either ends.
func (r *Relay) pass(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", r.upstream)
	if err != nil {
		return
	}
	defer server.Close()
	l := &link{relay: r, client: client, server: server, ended: make(chan struct{}),
		channels: map[uint16]*channel{}}
	r.mu.Lock()
	refused := r.shut
	if !refused {
		r.open[l] = true
	}
	r.mu.Unlock()
	if refused {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { defer l.end(); l.upstream() })
	both.Go(func() { defer l.end(); l.downstream() })
	both.Wait()
	l.late.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, l)
	for _, c := range l.copies {
		c.CutAt = time.Now()
	}
}

// link is one connection.
type link struct {
	relay          *Relay
	client, server net.Conn
	late           sync.WaitGroup // confirms that are delayed
	once           sync.Once
	ended          chan struct{}

	writing sync.Mutex // to the client

	// Under the relay's lock.
	channels map[uint16]*channel
	copies   []*Copy
}

// channel is what is known of a channel of the connection.
type channel struct {
	confirming bool
	published  uint64
	exchange   string           // of the last publish
	waiting    map[uint64]*Copy // by delivery tag
	expects    *Copy            // a publish whose properties come next
	returning  bool             // a return whose properties come next
}

func (l *link) end() {
	l.once.Do(func() { close(l.ended) })
	_ = l.client.Close()
	_ = l.server.Close()
}

func (l *link) upstream() {
	in := bufio.NewReader(l.client)
	header := make([]byte, 8) // the protocol's
	if _, err := io.ReadFull(in, header); err != nil {
		return
	}
	if _, err := l.server.Write(header); err != nil {
		return
	}
	for {
		f, err := readFrame(in)
		if err != nil {
			return
		}
		l.noteSent(f)
		if _, err := l.server.Write(f.bytes); err != nil {
			return
		}
	}
}

func (l *link) downstream() {
	in := bufio.NewReader(l.server)
	for {
		f, err := readFrame(in)
		if err != nil {
			return
		}
		a, isAnswer := l.noteReceived(f)
		switch {
		case !isAnswer:
			if l.write(f) != nil {
				return
			}
		case a.lost:
			return
		case a.delay > 0:
			l.late.Go(func() {
				select {
				case <-time.After(a.delay):
					_ = l.answer(f, a) // the client may be gone
				case <-l.ended:
				}
			})
		default:
			if l.answer(f, a) != nil {
				return
			}
		}
	}
}

func (l *link) write(f frame) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	_, err := l.client.Write(f.bytes)
	return err
}

// answer passes a confirm on.
func (l *link) answer(f frame, a answer) error {
	if err := l.write(f); err != nil {
		return err
	}
	l.relay.mu.Lock()
	defer l.relay.mu.Unlock()
	for _, c := range a.copies {
		c.Answered, c.Refused = time.Now(), a.refused
	}
	return nil
}

// noteSent remembers what a client's frame says.
func (l *link) noteSent(f frame) {
	l.relay.mu.Lock()
	defer l.relay.mu.Unlock()
	switch f.method() {
	case channelOpen:
		l.channels[f.channel] = &channel{waiting: map[uint64]*Copy{}}
	case confirmSelect:
		l.of(f).confirming = true
	case basicPublish:
		p := f.arguments()
		p.skip(2)
		c := l.of(f)
		c.exchange = p.shortString()
		c.expects = &Copy{Exchange: c.exchange, RoutingKey: p.shortString(), Sent: time.Now()}
		if c.confirming {
			c.published++
			c.waiting[c.published] = c.expects
		}
		l.copies = append(l.copies, c.expects)
		l.relay.copies = append(l.relay.copies, c.expects)
	}
	if c := l.of(f); f.kind == frameHeader && c.expects != nil {
		c.expects.MessageID = f.messageID()
		c.expects = nil
	}
}

func (l *link) of(f frame) *channel {
	c := l.channels[f.channel]
	if c == nil {
		c = &channel{waiting: map[uint64]*Copy{}}
		l.channels[f.channel] = c
	}
	return c
}

// answer is a confirm, of one or several messages.
type answer struct {
	copies  []*Copy
	refused bool
	lost    bool
	delay   time.Duration
}

// noteReceived remembers what a server's frame says, and reports whether it is a confirm.
func (l *link) noteReceived(f frame) (a answer, isAnswer bool) {
	l.relay.mu.Lock()
	defer l.relay.mu.Unlock()
	c := l.of(f)
	switch m := f.method(); m {
	case basicReturn:
		c.returning = true
	case basicAck, basicNack:
		p := f.arguments()
		tag, multiple := p.long(), p.octet()&1 == 1
		for _, t := range slices.Sorted(tags(c.waiting)) {
			if t == tag || multiple && t <= tag {
				a.copies = append(a.copies, c.waiting[t])
				delete(c.waiting, t)
			}
		}
		a.refused = m == basicNack
		n := l.relay.lost[c.exchange]
		a.lost, a.delay = n > 0 && rand.IntN(n) == 0, l.relay.delays[c.exchange]
		return a, true
	}
	if f.kind == frameHeader && c.returning {
		c.returning = false
		id := f.messageID()
		for _, waiting := range c.waiting {
			if waiting.MessageID == id {
				waiting.Returned = true
			}
		}
	}
	return a, false
}
