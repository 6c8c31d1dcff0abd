package faults

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
)

// restartAfter is how soon a Member whose process ended has another, as from any
// supervisor of services.
const restartAfter = time.Second

// Member is a program that is always there again: when its process ends, in
// whatever way, another is started.
type Member struct {
	// Name is unique in its world where the member was given one: SQS knows the
	// callers by it.
	Name string

	folder, program string
	env, args       []string
	stop            chan struct{} // closed by Stop
	gone            chan struct{} // closed when the last process has ended

	mu      sync.Mutex
	stopped bool
	process *Program
	ends    []error // of processes that nobody had asked to end
	asked   bool
	said    bytes.Buffer // by processes that have ended
}

// Supervise starts a program and keeps it running until Stop.
func Supervise(folder, program string, env []string, args ...string) (*Member, error) {
	return SuperviseAs(program, folder, program, env, args...)
}

// SuperviseAs gives the member a name, with which its requests to SQS are signed.
func SuperviseAs(name, folder, program string, env []string, args ...string) (*Member, error) {
	m := &Member{
		Name: name, folder: folder, program: program, env: append(env[:len(env):len(env)],
			"AWS_ACCESS_KEY_ID="+name), args: args,
		stop: make(chan struct{}), gone: make(chan struct{}),
	}
	if err := m.launch(); err != nil {
		return nil, err
	}
	go m.keep()
	return m, nil
}

func (m *Member) launch() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopped {
		return nil
	}
	p, err := Run(m.folder, m.program, m.env, m.args...)
	if err == nil {
		m.process, m.asked = p, false
	}
	return err
}

func (m *Member) keep() {
	defer close(m.gone)
	for {
		p := m.current()
		<-p.Done()
		m.note(p)
		select {
		case <-m.stop:
			return
		case <-time.After(restartAfter):
		}
		if err := m.launch(); err != nil {
			m.mu.Lock()
			m.ends = append(m.ends, err)
			m.mu.Unlock()
			return
		}
	}
}

func (m *Member) note(p *Program) {
	m.mu.Lock()
	defer m.mu.Unlock()
	fmt.Fprintf(&m.said, "%s--- process %d ended: %v\n", p.Output, p.Pid(), p.Err())
	if !m.asked {
		m.ends = append(m.ends, fmt.Errorf("%s ended by itself: %w", m.Name, p.Err()))
	}
}

func (m *Member) current() *Program {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.process
}

// Kill ends the present process with SIGKILL.
func (m *Member) Kill() error {
	_, err := m.end(syscall.SIGKILL)
	return err
}

// Terminate asks the present process to end, waits for that, and returns how it
// ended: nil for exit code 0, and where there was none.
func (m *Member) Terminate() error {
	select {
	case <-m.current().Done():
		return nil
	default:
	}
	p, err := m.end(syscall.SIGTERM)
	return errors.Join(err, p.Err())
}

func (m *Member) end(sig syscall.Signal) (*Program, error) {
	m.mu.Lock()
	p := m.process
	m.asked = true
	m.mu.Unlock()
	if err := p.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return p, fmt.Errorf("ending %s: %w", m.Name, err)
	}
	<-p.Done()
	return p, nil
}

// Stop ends the program for good, with SIGKILL: by then nobody counts any more.
func (m *Member) Stop() error {
	m.mu.Lock()
	if !m.stopped {
		m.stopped = true
		close(m.stop)
	}
	m.mu.Unlock()
	err := m.Kill()
	<-m.gone
	return err
}

// Said is what all processes wrote so far.
func (m *Member) Said() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.said.String() + m.process.Output.String()
}

// Ends are the ends that nobody asked for.
func (m *Member) Ends() []error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]error(nil), m.ends...)
}

// Signal sends a signal to the present process. One that is gone is no error.
func (m *Member) Signal(sig syscall.Signal) error {
	if err := m.current().Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("sending %s to %s: %w", sig, m.Name, err)
	}
	return nil
}
