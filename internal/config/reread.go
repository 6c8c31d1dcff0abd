package config

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/outflowhq/outflow/internal/bounded"
)

// rereadEvery is how old a value may be that is read again when it is asked for.
const rereadEvery = time.Second

// reread is a value that comes from files, which may change while the program runs.
// It is read again when it is asked for, at most once in rereadEvery. What can't be
// read, or is not right, leaves the last good value, and is warned of once. It is safe
// for concurrent use.
type reread[T any] struct {
	name string // the setting, for the warning
	read func() (T, error)

	mu     sync.Mutex
	log    *slog.Logger // nil until there is one
	value  T
	at     time.Time
	warned string
}

// newReread reads the value for the first time.
func newReread[T any](name string, read func() (T, error)) (*reread[T], error) {
	r := &reread[T]{name: name, read: read}
	var err error
	r.value, err = read()
	r.at = time.Now()
	return r, err
}

// get returns the newest good value.
func (r *reread[T]) get() T {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.at) < rereadEvery {
		return r.value
	}
	value, err := r.read()
	r.at = time.Now()
	switch {
	case errors.Is(err, errUnsettled):
	case err != nil:
		if said := err.Error(); said != r.warned && r.log != nil {
			r.log.Warn("reading the setting's files again; what they had before stays in use",
				"setting", r.name, "error", brief(said))
			r.warned = said
		}
	default:
		r.value, r.warned = value, ""
	}
	return r.value
}

func (r *reread[T]) warnTo(log *slog.Logger) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log = log
}

// errUnsettled says that a file may still be written: it is looked at again.
var errUnsettled = errors.New("the file is being written")

// mostOfFile bounds a file of settings.
const mostOfFile = 1 << 20

// settledFile reads a file that nobody has written to in the last rereadEvery: whoever
// writes it in place must not be read half. What is no regular file, such as a pipe,
// can be read once, and is as it was after that.
func settledFile(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, reason(err)
	}
	if age := time.Since(info.ModTime()); !info.Mode().IsRegular() || age >= 0 && age < rereadEvery {
		return nil, errUnsettled
	}
	return readFile(name)
}

// readFile reads a whole file, which is bounded.
func readFile(name string) ([]byte, error) {
	text, err := bounded.ReadFile(name, mostOfFile)
	var large *bounded.TooLargeError
	var path *fs.PathError
	switch {
	case errors.As(err, &large):
		return nil, fmt.Errorf("wants a file of at most %d bytes", large.Limit)
	case errors.As(err, &path) && path.Op == "read":
		return nil, fmt.Errorf("reading the file: %w", reason(err))
	case err != nil:
		return nil, fmt.Errorf("wants a file that can be read: %w", reason(err))
	}
	return text, nil
}
