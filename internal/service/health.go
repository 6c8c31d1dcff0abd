package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"go.temporal.io/sdk/client"

	"github.com/outflowhq/outflow/internal/timing"
)

const (
	// checkLimit bounds each check; they run at once, so it bounds the answer too.
	checkLimit = 2 * time.Second
	// checkAgain is how old an answer may be: probes, however many, don't take
	// the deliveries' connections.
	checkAgain = time.Second
	// requestLimit is how long a caller may take to ask.
	requestLimit = 5 * time.Second
	// sayAgainUnready is how often the log says of a part that stays unready why.
	sayAgainUnready = time.Minute
)

// The parts without which a program is not ready, as /readyz and the log call them.
const (
	partDatabase = "database"
	partTemporal = "temporal"
)

// check is one thing without which a program is not ready.
type check struct {
	name string
	run  func(context.Context) error
}

// health answers the probes: /livez while the process runs, /readyz with 200
// only between start and stop, and while every check passes. It serves /metrics beside
// them. A nil *health is
// one that nobody asked for.
type health struct {
	listener net.Listener
	server   *http.Server
	served   chan struct{}
	log      *slog.Logger

	mu      sync.Mutex
	state   string // why it is not ready, whatever the checks say; "" once started
	checks  []check
	checked time.Time
	failing error
	reasons map[string]reasonSaid // by part, of those that are not ready

	asking sync.Mutex // one round of checks at a time
}

// newHealth listens on address, or returns nil where there is none. It is
// called before anything is connected, so that a mistake shows at once.
func newHealth(ctx context.Context, address string, metrics http.Handler, log *slog.Logger) (*health, error) {
	if address == "" {
		return nil, nil
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("OUTFLOW_HEALTH_ADDRESS: wants an address that is free on this host (got %q): %w", address, err)
	}
	h := &health{listener: listener, served: make(chan struct{}), log: log, state: "starting"}
	h.server = &http.Server{Handler: h.handler(metrics), ReadTimeout: requestLimit, WriteTimeout: 10 * time.Second,
		ConnState: new(callers).changed, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	h.server.SetKeepAlivesEnabled(false) // no caller has a reason to stay
	go h.serve()
	log.Info("answering probes", "address", listener.Addr().String())
	return h, nil
}

func (h *health) serve() {
	defer close(h.served)
	if err := h.server.Serve(h.listener); !errors.Is(err, http.ErrServerClosed) {
		h.log.Error("answering probes ended", "error", err)
	}
}

func (h *health) handler(metrics http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { answer(w, nil) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) { answer(w, h.unready(r.Context())) })
	if metrics != nil {
		mux.Handle("GET /metrics", metrics)
	}
	return mux
}

func answer(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = fmt.Fprintln(w, err)
		return
	}
	_, _ = io.WriteString(w, "ok\n")
}

// started turns the checks on.
func (h *health) started(checks ...check) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.state, h.checks = "", checks
}

// waitsFor says which part the start waits for.
func (h *health) waitsFor(part string) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.state = "starting: " + part + ": not ready"
}

// stopping says from now on that nothing new is to be expected here.
func (h *health) stopping() {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.state = "stopping"
}

// close ends the listener. It is the last thing that a program does.
func (h *health) close() {
	if h == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), timing.StopProbes)
	defer cancel()
	if h.server.Shutdown(ctx) != nil {
		_ = h.server.Close()
	}
	<-h.served
}

// unready says why the program is not ready, or nil.
func (h *health) unready(ctx context.Context) error {
	h.asking.Lock()
	defer h.asking.Unlock()
	state, checks, failing, fresh := h.look()
	switch {
	case state != "":
		return errors.New(state)
	case fresh:
		return failing
	}
	// A prober that leaves must not be taken for a part that fails.
	failed := runChecks(context.WithoutCancel(ctx), checks)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.say(failed)
	h.checked, h.failing = time.Now(), notReady(failed)
	if h.state != "" {
		return errors.New(h.state)
	}
	return h.failing
}

// failure is a check that did not pass.
type failure struct {
	part string
	err  error
}

// notReady is what whoever can reach the port may know: errors name hosts, users and
// databases, and those are for the log.
func notReady(failed []failure) error {
	var said []error
	for _, f := range failed {
		said = append(said, errors.New(f.part+": not ready"))
	}
	return errors.Join(said...)
}

// reasonSaid is what the log has of a part that is not ready.
type reasonSaid struct {
	text string
	at   time.Time
}

// say logs why parts are not ready: when that changes, and once a minute. The lock is
// held.
func (h *health) say(failed []failure) {
	reasons := map[string]reasonSaid{}
	for _, f := range failed {
		before, text := h.reasons[f.part], f.err.Error()
		if before.text != text || time.Since(before.at) >= sayAgainUnready {
			h.log.Warn("not ready", "part", f.part, "error", text)
			before = reasonSaid{text, time.Now()}
		}
		reasons[f.part] = before
	}
	for part := range h.reasons {
		if _, still := reasons[part]; !still {
			h.log.Info("ready again", "part", part)
		}
	}
	h.reasons = reasons
}

func (h *health) look() (state string, checks []check, failing error, fresh bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state, h.checks, h.failing, !h.checked.IsZero() && time.Since(h.checked) < checkAgain
}

// runChecks runs all checks at once and returns those that fail, in their order.
func runChecks(ctx context.Context, checks []check) []failure {
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	said := make([]error, len(checks))
	var running sync.WaitGroup
	for i, c := range checks {
		running.Go(func() { said[i] = c.run(ctx) })
	}
	running.Wait()
	var failed []failure
	for i, err := range said {
		if err != nil {
			failed = append(failed, failure{checks[i].name, err})
		}
	}
	return failed
}

// checks are what a starter and a worker need to do their work.
func (p *parts) checks() []check {
	return []check{
		{partDatabase, p.store.Ping},
		{partTemporal, func(ctx context.Context) error {
			_, err := p.client.CheckHealth(ctx, &client.CheckHealthRequest{})
			return err
		}},
	}
}
