// Package files publishes messages to files: a publisher of a few lines, for a program that embeds
// Outflow's dispatcher.
//
// The invariant: a message is acknowledged once its whole line is on the disk.
package files

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish"
)

// Scheme begins the destinations of files, such as "x-file://orders". Schemes that begin with "x-"
// are free for publishers of your own.
const Scheme = "x-file"

// MaxBytes is the largest payload: a bound of this publisher's own.
const MaxBytes = 1 << 20

// writeTime is what a write may need: on a busy disk a sync takes a while.
const writeTime = time.Second

var errTooLittleTime = errors.New("too little time was left")

// Publisher appends messages to files in a folder, each as a line of JSON. The file of
// x-file://orders is orders.jsonl, and must exist. It is safe for concurrent use.
type Publisher struct {
	Folder string

	mu sync.Mutex
}

var _ publish.Publisher = (*Publisher)(nil)

// Scheme is "x-file".
func (*Publisher) Scheme() string { return Scheme }

// Publish appends m to its file. See publish.Publisher for what it promises.
func (p *Publisher) Publish(ctx context.Context, m outflow.Message) (brokerMessageID string, err error) {
	name, ok := strings.CutPrefix(m.Destination, Scheme+"://")
	switch {
	case !ok || name == "" || strings.ContainsAny(name, `/\`):
		return "", outflow.Permanent(fmt.Errorf("%s wants the form %s://NAME", m.Destination, Scheme))
	case len(m.Payload) > MaxBytes:
		return "", outflow.Permanent(fmt.Errorf("writing to %s: the payload has %d bytes, and a file takes %d",
			m.Destination, len(m.Payload), MaxBytes))
	case !publish.EnoughTime(ctx, writeTime):
		return "", fmt.Errorf("writing to %s: %w: %w", m.Destination, outflow.ErrNotAttempted,
			cmp.Or(ctx.Err(), errTooLittleTime))
	}
	m.Destination, m.ContentType = "", cmp.Or(m.ContentType, "application/json")
	line, err := json.Marshal(m)
	if err != nil {
		return "", outflow.Permanent(fmt.Errorf("encoding message %s: %w", m.ID, err))
	}
	if err := p.appendLine(name+".jsonl", append(line, '\n')); err != nil {
		return "", classify(fmt.Errorf("writing to %s://%s: %w", Scheme, name, err))
	}
	return m.ID.String(), nil
}

// appendLine returns once the line is on the disk.
func (p *Publisher) appendLine(name string, line []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	file, err := os.OpenFile(filepath.Join(p.Folder, name), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.Write(line)
	return errors.Join(err, file.Sync(), file.Close())
}

// classify gives an error its class: nothing was acknowledged.
func classify(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return outflow.Permanent(fmt.Errorf("%w: %w (create the file)", err, outflow.ErrNoDestination))
	}
	return outflow.Unavailable(err)
}

// Decode reads a line that Publish wrote.
func Decode(line []byte) (m outflow.Message, err error) {
	if err := json.Unmarshal(line, &m); err != nil {
		return outflow.Message{}, fmt.Errorf("reading a message: %w", err)
	}
	return m, nil
}
