package files_test

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/publishtest"

	"example.com/publisher/files"
)

func TestConformance(t *testing.T) {
	publishtest.Run(t, &harness{publisher: &files.Publisher{Folder: t.TempDir()}})
}

type harness struct {
	publisher *files.Publisher
	made      atomic.Int64
}

var _ publishtest.Harness = (*harness)(nil)

func (h *harness) Publisher(*testing.T) publish.Publisher { return h.publisher }

func (h *harness) Destination(t *testing.T) string {
	name := fmt.Sprintf("topic-%d", h.made.Add(1))
	if err := os.WriteFile(h.path(name), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return files.Scheme + "://" + name
}

func (h *harness) MissingDestination(*testing.T) string { return files.Scheme + "://missing" }

// Receive reads the lines, and empties the file.
func (h *harness) Receive(t *testing.T, destination string, _ int) (all []outflow.Message) {
	path := h.path(strings.TrimPrefix(destination, files.Scheme+"://"))
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		m, err := files.Decode(lines.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, m)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	return all
}

func (h *harness) MaxBytes() int { return files.MaxBytes }

// Break is never called: Skip names every case that has a fault.
func (h *harness) Break(*testing.T, string, publishtest.Fault) {}

func (h *harness) Restore(*testing.T, string) {}

func (h *harness) Skip(name string) (reason string, skip bool) {
	switch name {
	case publishtest.CaseThrottled, publishtest.CaseDenied, publishtest.CaseBroken, publishtest.CaseAnswerLost,
		publishtest.CaseUnreachable, publishtest.CaseSlow, publishtest.CaseCancel:
		return "a file of this machine has no such fault", true
	case publishtest.CaseClose:
		return "the publisher holds nothing that needs closing", true
	}
	return "", false
}

func (h *harness) path(name string) string { return filepath.Join(h.publisher.Folder, name+".jsonl") }
