package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/outflowhq/outflow/devstack/proc"
)

// binaries are Chromium's names; the first that is installed is used.
var binaries = []string{"chromium", "chromium-browser", "google-chrome"}

const callTimeout = 20 * time.Second

// browser is a headless Chromium that takes commands by its DevTools
// protocol, over a pair of pipes: no port is open for others to use.
// https://chromedevtools.github.io/devtools-protocol/
type browser struct {
	process *proc.Process
	profile string
	to      *os.File

	mu      sync.Mutex
	calls   int
	waiting map[int]chan answer
}

// answer is one message of the protocol's answers; events have no ID.
type answer struct {
	ID     int             `json:"id"`
	Result json.RawMessage `json:"result"`
	Error  *struct {
		Message string `json:"message"`
	} `json:"error"`
}

func findChromium() (string, error) {
	for _, name := range binaries {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("chromium is not installed: apt-get install chromium")
}

// startBrowser starts path with a fresh profile. It ends with this process.
func startBrowser(path string) (*browser, error) {
	profile, err := os.MkdirTemp("", "outflow-chromium-")
	if err != nil {
		return nil, fmt.Errorf("making Chromium's profile: %w", err)
	}
	b := &browser{profile: profile, waiting: map[int]chan answer{}}
	if err := b.start(path); err != nil {
		return nil, errors.Join(err, os.RemoveAll(profile))
	}
	return b, nil
}

func (b *browser) start(path string) error {
	theirs, to, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("making Chromium's pipes: %w", err)
	}
	defer theirs.Close()
	from, answers, err := os.Pipe()
	if err != nil {
		return errors.Join(fmt.Errorf("making Chromium's pipes: %w", err), to.Close())
	}
	defer answers.Close()
	cmd := exec.Command(path,
		"--headless", "--remote-debugging-pipe", "--user-data-dir="+filepath.Join(b.profile, "data"),
		"--no-sandbox", // root has none; the only page is our own
		"--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--hide-scrollbars", "about:blank")
	cmd.ExtraFiles = []*os.File{theirs, answers} // 3 and 4, as --remote-debugging-pipe wants
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if b.process, err = proc.Start(cmd, syscall.SIGKILL); err != nil {
		return errors.Join(err, to.Close(), from.Close())
	}
	b.to = to
	go b.read(from)
	return nil
}

// read hands each answer to its call until the browser ends.
func (b *browser) read(from *os.File) {
	defer from.Close()
	r := bufio.NewReader(from)
	for {
		line, err := r.ReadBytes(0)
		if err != nil {
			b.mu.Lock()
			defer b.mu.Unlock()
			for _, waiting := range b.waiting {
				close(waiting)
			}
			b.waiting = nil
			return
		}
		var a answer
		if json.Unmarshal(line[:len(line)-1], &a) != nil || a.ID == 0 {
			continue // an event: pages are asked instead
		}
		b.mu.Lock()
		if waiting := b.waiting[a.ID]; waiting != nil {
			waiting <- a
			delete(b.waiting, a.ID)
		}
		b.mu.Unlock()
	}
}

// call sends one command, to a page's session or to the browser itself (""),
// and reads its result into result unless that is nil.
func (b *browser) call(ctx context.Context, session, method string, params map[string]any, result any) error {
	ctx, cancel := context.WithTimeoutCause(ctx, callTimeout, fmt.Errorf("no answer within %s", callTimeout))
	defer cancel()
	waiting := make(chan answer, 1)
	b.mu.Lock()
	if b.waiting == nil {
		b.mu.Unlock()
		return fmt.Errorf("asking Chromium for %s: it has ended", method)
	}
	b.calls++
	id := b.calls
	b.waiting[id] = waiting
	b.mu.Unlock()

	command := map[string]any{"id": id, "method": method, "params": params}
	if session != "" {
		command["sessionId"] = session
	}
	data, err := json.Marshal(command)
	if err != nil {
		return fmt.Errorf("asking Chromium for %s: %w", method, err)
	}
	if _, err := b.to.Write(append(data, 0)); err != nil {
		return fmt.Errorf("asking Chromium for %s: %w", method, err)
	}
	select {
	case a, ok := <-waiting:
		switch {
		case !ok:
			return fmt.Errorf("asking Chromium for %s: %w", method, io.ErrUnexpectedEOF)
		case a.Error != nil:
			return fmt.Errorf("asking Chromium for %s: %s", method, a.Error.Message)
		case result == nil:
			return nil
		}
		return json.Unmarshal(a.Result, result)
	case <-ctx.Done():
		return fmt.Errorf("asking Chromium for %s: %w", method, context.Cause(ctx))
	}
}

// close ends the browser with all its processes and removes its profile.
func (b *browser) close() error {
	_ = b.to.Close()
	_ = syscall.Kill(-b.process.Pid(), syscall.SIGKILL) // an error means that it is gone
	<-b.process.Done()
	if err := os.RemoveAll(b.profile); err != nil {
		return fmt.Errorf("removing Chromium's profile: %w", err)
	}
	return nil
}
