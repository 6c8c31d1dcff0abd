package rabbitmq

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/outflowhq/outflow/devstack/proc"
)

// require is set where RabbitMQ must be there, as in CI. Elsewhere the tests are skipped without.
const require = "OUTFLOW_TEST_REQUIRES_RABBITMQ"

func up(t *testing.T, o Options) *Broker {
	t.Helper()
	if !Installed() && os.Getenv(require) == "" {
		t.Skip("RabbitMQ is not installed: " + HowToInstall)
	}
	b, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Kill(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func ctl(t *testing.T, b *Broker, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	said, err := b.Ctl(ctx, args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(said)
}

// TestStopKillAndStartAgain: each start is on the same data and port.
func TestStopKillAndStartAgain(t *testing.T) {
	b := up(t, Options{Dir: filepath.Join(t.TempDir(), "node")})
	ctl(t, b, "add_vhost", "kept")
	for name, end := range map[string]func(*Broker) error{"stop": (*Broker).Stop, "kill": (*Broker).Kill} {
		if err := end(b); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		select {
		case <-b.Done():
		default:
			t.Fatalf("%s: the node still runs", name)
		}
		if conn, err := net.Dial("tcp", b.Address()); err == nil {
			_ = conn.Close()
			t.Fatalf("%s: something still listens", name)
		}
		again := up(t, b.Options())
		if again.Port() != b.Port() {
			t.Errorf("%s: it came back on port %d, not %d", name, again.Port(), b.Port())
		}
		b = again
		if said := ctl(t, b, "-q", "list_vhosts"); !strings.Contains(said, "kept") {
			t.Errorf("%s: a virtual host is gone: %s", name, said)
		}
	}
}

// TestTwoNodes: neither sees the other, though their names are the same, and nor does a network.
func TestTwoNodes(t *testing.T) {
	a := up(t, Options{Dir: filepath.Join(t.TempDir(), "node")})
	b := up(t, Options{Dir: filepath.Join(t.TempDir(), "node")})
	listensOnLoopbackAlone(t, a)
	ctl(t, a, "add_vhost", "of-a")
	if said := ctl(t, b, "-q", "list_vhosts"); strings.Contains(said, "of-a") {
		t.Errorf("a virtual host of the other node: %s", said)
	}
	_, err := Start(t.Context(), Options{Dir: filepath.Join(t.TempDir(), "node"), Port: a.Port()})
	if err == nil || !strings.Contains(err.Error(), fmt.Sprint(a.Port())) {
		t.Errorf("a third node on port %d: %v", a.Port(), err)
	}
}

// listensOnLoopbackAlone looks at every port that the node and its port mapper listen on.
func listensOnLoopbackAlone(t *testing.T, b *Broker) {
	for _, pid := range []int{b.node.Pid(), b.epmd.Pid()} {
		ports := listening(t, pid)
		if len(ports) == 0 {
			t.Errorf("process %d listens nowhere", pid)
		}
		for _, address := range ports {
			if !strings.HasPrefix(address, "0100007F:") && // 127.0.0.1 and ::1
				!strings.HasPrefix(address, "00000000000000000000000001000000:") {
				t.Errorf("process %d listens on %s", pid, address)
			}
		}
	}
}

// listening are the addresses on which a process listens, as /proc writes them.
func listening(t *testing.T, pid int) (addresses []string) {
	t.Helper()
	sockets := map[string]bool{}
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil || len(links) == 0 {
		t.Skip("this system has no /proc to ask")
	}
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target, "socket:[") {
			sockets[strings.Trim(target, "socket:[]")] = true
		}
	}
	for _, table := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			const listens = "0A"
			if f := strings.Fields(line); len(f) > 9 && f[3] == listens && sockets[f[9]] {
				addresses = append(addresses, f[1])
			}
		}
	}
	return addresses
}

const asParent = "DEVSTACK_RABBITMQ_PARENT"

// TestDiesWithItsParent: whoever started the node is killed, and nothing of it is left.
func TestDiesWithItsParent(t *testing.T) {
	if dir := os.Getenv(asParent); dir != "" {
		b, err := Start(t.Context(), Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("pids %d %d\n", b.node.Pid(), b.epmd.Pid())
		select {} // until killed
	}
	if !Installed() && os.Getenv(require) == "" {
		t.Skip("RabbitMQ is not installed: " + HowToInstall)
	}
	var out strings.Builder
	said := &lines{into: &out, line: make(chan string, 100)}
	cmd := exec.Command(os.Args[0], "-test.run", "^TestDiesWithItsParent$", "-test.v")
	cmd.Env = append(os.Environ(), asParent+"="+filepath.Join(t.TempDir(), "node"))
	cmd.Stdout, cmd.Stderr = said, said
	parent, err := proc.Start(cmd, syscall.SIGKILL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = parent.Signal(syscall.SIGKILL) }()
	var pids []int
	for pids == nil {
		select {
		case line := <-said.line:
			if rest, found := strings.CutPrefix(line, "pids "); found {
				for _, field := range strings.Fields(rest) {
					pid, _ := strconv.Atoi(field)
					pids = append(pids, pid)
				}
			}
		case <-parent.Done():
			t.Fatalf("the parent ended: %v\n%s", parent.Err(), out.String())
		}
	}
	if err := parent.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-parent.Done()
	for _, pid := range pids {
		for deadline := time.Now().Add(30 * time.Second); alive(pid); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("process %d outlives its parent", pid)
			}
		}
	}
}

// alive reports whether a process runs: a zombie does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

// lines passes on what is written, line by line.
type lines struct {
	into *strings.Builder
	rest string
	line chan string
}

func (l *lines) Write(b []byte) (int, error) {
	l.into.Write(b)
	l.rest += string(b)
	for {
		line, rest, found := strings.Cut(l.rest, "\n")
		if !found {
			return len(b), nil
		}
		l.rest = rest
		select {
		case l.line <- line:
		default:
		}
	}
}
