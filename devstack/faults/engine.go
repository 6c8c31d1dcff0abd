package faults

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/outflowhq/outflow/devstack/ports"
	"github.com/outflowhq/outflow/devstack/proc"
	"github.com/outflowhq/outflow/devstack/temporal"
)

// asEngine makes a program that calls ServeEngine first behave as Temporal's server.
const asEngine = "DEVSTACK_FAULTS_ENGINE"

// engineTimeout is for a busy machine; a quiet one takes seconds.
const engineTimeout = 3 * time.Minute

// ServeEngine must be the first thing that a program using this package does:
// Temporal's server is that program once more, in a process that can be killed.
// In any other process it does nothing.
func ServeEngine() {
	options := os.Getenv(asEngine)
	if options == "" {
		return
	}
	os.Unsetenv(asEngine)
	if err := serveEngine(options); err != nil {
		fmt.Fprintln(os.Stderr, "temporal:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func serveEngine(options string) error {
	var o temporal.Options
	if err := json.Unmarshal([]byte(options), &o); err != nil {
		return fmt.Errorf("reading what to start: %w", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	server, err := temporal.Start(ctx, o)
	if err != nil {
		return err
	}
	if _, err := fmt.Println(engineReady); err != nil {
		return fmt.Errorf("reporting readiness: %w", err)
	}
	<-ctx.Done()
	return server.Stop()
}

const engineReady = "ready"

// Engine is Temporal's server. It keeps its port through every restart.
type Engine struct {
	options temporal.Options
	process *proc.Process
}

func newEngine(databaseURL, logFile string) (*Engine, error) {
	port, err := ports.Free()
	if err != nil {
		return nil, fmt.Errorf("choosing Temporal's port: %w", err)
	}
	return &Engine{options: temporal.Options{DatabaseURL: databaseURL, Port: port, LogFile: logFile}}, nil
}

// Address is the frontend's own, beside every link.
func (e *Engine) Address() string { return ports.Address(e.options.Port) }

// Start starts the server on what its database holds, and returns when it takes
// workflow starts.
func (e *Engine) Start(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	options, err := json.Marshal(e.options)
	if err != nil {
		return fmt.Errorf("encoding the options of Temporal: %w", err)
	}
	log, err := os.OpenFile(e.options.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("opening Temporal's log: %w", err)
	}
	defer log.Close()
	said, says := io.Pipe()
	cmd := exec.Command(self)
	cmd.Env = []string{asEngine + "=" + string(options), "PATH=" + os.Getenv("PATH"), "HOME=" + os.TempDir()}
	cmd.Stdout, cmd.Stderr = says, log
	if e.process, err = proc.Start(cmd, syscall.SIGKILL); err != nil {
		return err
	}
	ready := make(chan struct{})
	go func() {
		lines := bufio.NewScanner(said)
		for lines.Scan() {
			if lines.Text() == engineReady {
				close(ready)
				break
			}
		}
		_, _ = io.Copy(io.Discard, said) // until the process ends
	}()
	p := e.process
	go func() { <-p.Done(); says.Close() }()
	ctx, cancel := context.WithTimeout(ctx, engineTimeout)
	defer cancel()
	select {
	case <-ready:
		return nil
	case <-p.Done():
		return fmt.Errorf("starting Temporal: %w (log: %s)", errors.Join(errors.New("it ended"), p.Err()),
			e.options.LogFile)
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("starting Temporal: not ready: %w (log: %s)", ctx.Err(), e.options.LogFile),
			e.Kill())
	}
}

// Kill ends the server with SIGKILL. One that is gone is no error.
func (e *Engine) Kill() error { return e.end(syscall.SIGKILL) }

// Stop ends it orderly; its database must be up.
func (e *Engine) Stop() error { return e.end(syscall.SIGTERM) }

func (e *Engine) end(sig syscall.Signal) error {
	if e.process == nil {
		return nil
	}
	if err := e.process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("ending Temporal: %w", err)
	}
	<-e.process.Done()
	return nil
}

// Done is closed when the server has ended, for whatever reason.
func (e *Engine) Done() <-chan struct{} { return e.process.Done() }
