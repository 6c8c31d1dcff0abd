package stack

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"

	"github.com/outflowhq/outflow/devstack/ports"
)

// portsName is the file in a data folder that has the ports of its last stack.
const portsName = "ports.json"

// keptPorts are the ports that a data folder's stacks have one after the other, so that connection
// strings and bookmarks outlive a restart. 0 is none yet.
type keptPorts struct {
	Postgres int `json:"postgres"`
	Temporal int `json:"temporal"`
	UI       int `json:"ui"`
	Queues   int `json:"sqs"`
	RabbitMQ int `json:"rabbitmq,omitempty"`
}

func (f *folder) readPorts() (kept keptPorts, err error) {
	if f.ephemeral {
		return kept, nil
	}
	path := filepath.Join(f.path, portsName)
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return kept, nil
	case err != nil:
		return kept, fmt.Errorf("reading the ports of the last stack: %w", err)
	}
	if err := json.Unmarshal(b, &kept); err != nil {
		return kept, fmt.Errorf("reading %s (remove it for other ports): %w", path, err)
	}
	return kept, nil
}

func (f *folder) writePorts(kept keptPorts) error {
	if f.ephemeral {
		return nil
	}
	b, err := json.Marshal(kept)
	if err == nil {
		err = replaceFile(filepath.Join(f.path, portsName), append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("keeping the ports: %w", err)
	}
	return nil
}

// onPort starts a part on the port that was asked for, or on the kept one, or on a free one where
// somebody else has that by now; start returns the port that the part has.
func (s *Stack) onPort(part string, asked int, kept *int, start func(port int) (int, error)) error {
	port := asked
	if port == 0 {
		port = *kept
	}
	got, err := start(port)
	var taken *ports.TakenError
	if asked == 0 && errors.As(err, &taken) && taken.Port == port {
		if got, err = start(0); err == nil {
			s.mu.Lock()
			s.moved = append(s.moved, fmt.Sprintf("%s: port %d is taken by another program; now %d", part, port, got))
			s.mu.Unlock()
		}
	}
	if err == nil {
		*kept = got
	}
	return err
}

func portOf(address string) (int, error) {
	u, err := url.Parse(address)
	if err != nil {
		return 0, fmt.Errorf("reading the port of %s: %w", address, err)
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		return 0, fmt.Errorf("reading the port of %s: %w", address, err)
	}
	return port, nil
}
