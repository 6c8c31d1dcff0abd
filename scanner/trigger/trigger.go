// Package trigger tells a scanner of new messages within milliseconds of their commit, so that an idle
// scanner need not poll.
//
//   - Listen: the producer's commit notifies one idle starter (NOTIFY).
//   - WAL: one starter reads the database's log for all, and notifies one of the idle. Producers'
//     commits carry nothing.
//
// The invariant: nothing but hints comes out of a trigger. The scanner waits for one only while the
// trigger has proved that hints arrive, and looks at the table all the same. So a trigger that is
// silent, lost or lied to costs time, and no message.
package trigger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outflowhq/outflow/internal/listen"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

// Kind is what wakes a scanner.
type Kind string

// The kinds of triggers. Poll has none: the scanner looks at the table every now and then.
const (
	Poll   Kind = "poll"
	Listen Kind = "listen"
	WAL    Kind = "wal"
)

// Kinds are all kinds, the simplest first.
func Kinds() []Kind { return []Kind{Poll, Listen, WAL} }

// Hints reports whether there is a Trigger of this kind.
func (k Kind) Hints() bool { return k == Listen || k == WAL }

// echoTimeout is how soon a registration, or a mark in the log, must arrive.
const echoTimeout = 5 * time.Second

// Store is the table as a trigger uses it. outboxdb.Store implements it.
type Store interface {
	KeepListener(ctx context.Context, l outbox.Listener) error
	DropListener(ctx context.Context, id uuid.UUID) error
	Rest(ctx context.Context, listener uuid.UUID) (outbox.Rest, error)
	PassOn(ctx context.Context, listener uuid.UUID, passed int) error
	KeepReader(ctx context.Context, listener uuid.UUID, lasts time.Duration) error
}

var _ Store = (*outboxdb.Store)(nil)

// Options has a required Connect.
type Options struct {
	// Connect returns the settings of a direct connection to the database: a transaction pooler drops
	// notifications. It is called for each new connection. OfPool makes one.
	Connect func(ctx context.Context) (*pgx.ConnConfig, error)
	// Logger; default slog.Default().
	Logger *slog.Logger
}

// OfPool has a trigger connect as a pool does.
func OfPool(config *pgxpool.Config) func(context.Context) (*pgx.ConnConfig, error) {
	return listen.PoolConfig(config)
}

// Trigger is a scanner.Trigger. New makes one.
type Trigger struct {
	kind  Kind
	store Store
	opts  Options
	times times

	mu       sync.Mutex
	listener uuid.UUID // the connection on which hints arrive; zero while none does
	problems [2]error  // of listening, of reading the log
	said     string    // the problem that was logged last, and when
	saidAt   time.Time
}

// times are the intervals that tests shorten.
type times struct{ listen, echo, prove, elect, slow time.Duration }

// The indexes of Trigger.problems.
const (
	ofListening = iota
	ofReading
)

// New returns a trigger of a kind, Listen or WAL. A scanner runs it: see scanner.Options.Trigger.
func New(kind Kind, store Store, opts Options) *Trigger {
	opts.Logger = cmp.Or(opts.Logger, slog.Default())
	return &Trigger{
		kind: kind, store: store, opts: opts, problems: [2]error{errNotYet, nil},
		times: times{
			listen: outbox.ListenInterval, echo: echoTimeout, prove: proveInterval, elect: electInterval, slow: slowSlot,
		},
	}
}

// Name is the trigger's kind.
func (t *Trigger) Name() string { return string(t.kind) }

// Problem says why the trigger does not work now. It is empty while the trigger works or starts.
func (t *Trigger) Problem() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if problem := t.problem(); problem != nil && !errors.Is(problem, errNotYet) {
		return problem.Error()
	}
	return ""
}

func (t *Trigger) problem() error { return cmp.Or(t.problems[ofListening], t.problems[ofReading]) }

// Run calls hinted with each hint, and with outbox.MaxPassed when hints may have been lost, until ctx
// ends. A hint says how many starters have passed it on.
func (t *Trigger) Run(ctx context.Context, hinted func(passed int)) {
	var reading sync.WaitGroup
	defer reading.Wait()
	if t.kind == WAL {
		t.setProblem(ofReading, errNotYet)
		reading.Go(func() { t.keepReading(ctx, hinted) })
	}
	l := listen.Listener{
		Channel: outboxdb.DueChannel, Config: t.connectAs("trigger"),
		Register: func(ctx context.Context, connection uuid.UUID) error {
			return t.store.KeepListener(ctx, outbox.Listener{ID: connection, ByProducers: t.kind == Listen})
		},
		Unregister: func(ctx context.Context, connection uuid.UUID) {
			if err := t.store.DropListener(ctx, connection); err != nil {
				t.opts.Logger.Debug("the registration will expire", "error", err)
			}
		},
		Echo:     func(uuid.UUID) string { return outboxdb.ListenEcho },
		Interval: t.times.listen, EchoTimeout: t.times.echo,
		Ready: func(ctx context.Context, connection uuid.UUID) error {
			t.setListener(connection)
			hinted(outbox.MaxPassed)
			return nil
		},
		Notified: func(payload string) {
			passed, err := strconv.Atoi(payload)
			if err != nil { // anybody may notify
				passed = outbox.MaxPassed
			}
			hinted(passed)
		},
		Lost: func(reason error) {
			t.setListener(uuid.Nil)
			if errors.Is(reason, listen.ErrNotArriving) {
				reason = fmt.Errorf("%w (OUTFLOW_LISTEN_URL, or dispatcher.Options.ListenOn, is for a direct one)", reason)
			}
			if ctx.Err() == nil {
				t.setProblem(ofListening, reason)
			}
			hinted(outbox.MaxPassed)
		},
	}
	l.Run(ctx)
}

// Rest says that the scanner is idle, and returns what it may wait for. It returns false while the
// trigger does not work: then the scanner polls.
func (t *Trigger) Rest(ctx context.Context) (outbox.Rest, bool) {
	t.mu.Lock()
	listener, works := t.listener, t.problem() == nil
	t.mu.Unlock()
	if !works || listener == uuid.Nil {
		return outbox.Rest{}, false
	}
	rest, err := t.store.Rest(ctx, listener)
	if err != nil {
		t.opts.Logger.Debug("polling", "error", err)
		return outbox.Rest{}, false
	}
	return rest, rest.Registered && (t.kind != WAL || rest.LogRead)
}

// PassOn says that the scanner has no room. It tells another starter of messages, unless the hint has
// been passed on too often.
func (t *Trigger) PassOn(ctx context.Context, passed int) {
	t.mu.Lock()
	listener := t.listener
	t.mu.Unlock()
	if listener == uuid.Nil {
		return
	}
	if err := t.store.PassOn(ctx, listener, passed); err != nil {
		t.opts.Logger.Debug("no other starter was told", "error", err)
	}
}

// connectAs is Options.Connect for a connection that people find by its name.
func (t *Trigger) connectAs(what string) func(context.Context) (*pgx.ConnConfig, error) {
	return func(ctx context.Context) (*pgx.ConnConfig, error) {
		config, err := t.opts.Connect(ctx)
		if err != nil {
			return nil, err
		}
		config = config.Copy()
		config.RuntimeParams["application_name"] = cmp.Or(config.RuntimeParams["application_name"], "outflow") + " " + what
		return config, nil
	}
}

func (t *Trigger) setListener(connection uuid.UUID) {
	t.mu.Lock()
	t.listener = connection
	t.mu.Unlock()
	if connection != uuid.Nil {
		t.setProblem(ofListening, nil)
	}
}

// errNotYet is the problem of a trigger that has just begun.
var errNotYet = errors.New("it is starting")

// sayInterval lies between two lines that give different reasons: the first one may not be the lasting
// one, as after the end of a server.
const sayInterval = time.Minute

// setProblem notes why the trigger does not work, or that it does. It logs each change once.
func (t *Trigger) setProblem(of int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	worked := t.problem() == nil
	t.problems[of] = err
	switch problem := t.problem(); {
	case problem == nil && !worked:
		t.said = ""
		t.opts.Logger.Info(fmt.Sprintf("trigger %s works", t.kind))
	case problem != nil && !errors.Is(problem, errNotYet) && problem.Error() != t.said &&
		(t.said == "" || time.Since(t.saidAt) >= sayInterval):
		t.said, t.saidAt = problem.Error(), time.Now()
		t.opts.Logger.Warn(fmt.Sprintf("trigger %s does not work; messages are found by polling", t.kind),
			"error", problem)
	}
}
