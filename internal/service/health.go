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

	"github.com/outflowhq/outflow/internal/timing"
)

const (
	// readTimeout and writeTimeout bound a probe's request and its answer.
	readTimeout  = 5 * time.Second
	writeTimeout = 10 * time.Second
)

// health answers the probes: /livez with 200 while the process runs, /readyz with 200 between start
// and stop while every check passes. It serves /metrics beside them. A nil *health serves nothing.
type health struct {
	listener net.Listener
	server   *http.Server
	served   chan struct{}
	log      *slog.Logger

	mu        sync.Mutex
	state     string // why the program is not ready, whatever the checks say; "" once started
	checks    []check
	checkedAt time.Time
	failing   error
	reasons   map[string]loggedReason // by part that is not ready

	checking sync.Mutex // one round of checks at a time
}

// newHealth listens on address, or returns nil where address is empty. It runs before anything is
// connected, so that a mistake shows at once.
func newHealth(
	ctx context.Context, address string, metrics http.Handler, log *slog.Logger,
) (*health, error) {
	if address == "" {
		return nil, nil
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("OUTFLOW_HEALTH_ADDRESS: wants an address that is free on this host (got %q): %w",
			address, err)
	}
	h := &health{listener: listener, served: make(chan struct{}), log: log, state: "starting"}
	h.server = &http.Server{
		Handler: h.handler(metrics), ReadTimeout: readTimeout, WriteTimeout: writeTimeout,
		ConnState: new(callers).changed, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	h.server.SetKeepAlivesEnabled(false) // a probe is one request
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

// waitingFor sets the part that the start waits for.
func (h *health) waitingFor(part string) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.state = "starting: " + part + ": not ready"
}

// stopping has /readyz answer "stopping" from now on.
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

// unready returns why the program is not ready, or nil.
func (h *health) unready(ctx context.Context) error {
	h.checking.Lock()
	defer h.checking.Unlock()
	state, checks, failing, fresh := h.last()
	switch {
	case state != "":
		return errors.New(state)
	case fresh:
		return failing
	}
	// A client that leaves does not make a check fail.
	failed := runChecks(context.WithoutCancel(ctx), checks)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.logReasons(failed)
	h.checkedAt, h.failing = time.Now(), notReady(failed)
	if h.state != "" {
		return errors.New(h.state)
	}
	return h.failing
}

// last returns the state, and the result of the last round of checks. fresh: that result may be
// used.
func (h *health) last() (state string, checks []check, failing error, fresh bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state, h.checks, h.failing, !h.checkedAt.IsZero() && time.Since(h.checkedAt) < checkInterval
}
