package faults

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/outflowhq/outflow/devstack/proc"
)

// The programs that Build builds.
const (
	Starter = "outflow-starter"
	Worker  = "outflow-worker"
	SignUp  = "signup" // the example's service and its consumer
)

// Build builds the root module's programs into a folder, as they are shipped,
// so that no stale binary is tested. root is the root module's folder.
func Build(root, into string) error {
	for name, folder := range map[string]string{"outflow": "./cmd/outflow", Starter: "./starter", Worker: "./worker",
		SignUp: "./examples/signup"} {
		cmd := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(into, name), folder)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("building %s: %w\n%s", name, err, out)
		}
	}
	return nil
}

// Program is a running process of Outflow.
type Program struct {
	*proc.Process
	Output *Output
}

// Output collects what a process writes.
type Output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *Output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// Run starts a program of the folder with nothing in its environment but env.
// It dies with this process.
func Run(folder, name string, env []string, args ...string) (*Program, error) {
	p := &Program{Output: &Output{}}
	cmd := exec.Command(filepath.Join(folder, name), args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, p.Output, p.Output
	var err error
	p.Process, err = proc.Start(cmd, syscall.SIGKILL)
	return p, err
}
