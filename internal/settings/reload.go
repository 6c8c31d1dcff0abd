package settings

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/outflowhq/outflow/internal/bounded"
)

// reloadEvery is the age at which Get reads a value again.
const reloadEvery = time.Second

// Reloaded is a value that comes from files, which may change while the program runs. Get reads it
// again, at most once in reloadEvery. Where files can't be read, or have a mistake, the last good
// value stays, and one warning is logged. It is safe for concurrent use.
type Reloaded[T any] struct {
	name string // the setting, for the warning
	read func() (T, error)

	mu     sync.Mutex
	log    *slog.Logger // nil until WarnTo
	value  T
	at     time.Time
	warned string
}

// Reload reads the value for the first time. name is the setting that has the files' names.
func Reload[T any](name string, read func() (T, error)) (*Reloaded[T], error) {
	value, err := read()
	if err != nil {
		return nil, err
	}
	return &Reloaded[T]{name: name, read: read, value: value, at: time.Now()}, nil
}

// ReloadFile is Reload of what parse reads in the file of this name.
func ReloadFile[T any](setting, name string, parse func(io.Reader) (T, error)) (*Reloaded[T], error) {
	read := ReadFile // the first time, even where the file was just written
	file, err := Reload(setting, func() (value T, err error) {
		text, err := read(name)
		if err != nil {
			return value, err
		}
		if value, err = parse(bytes.NewReader(text)); err != nil {
			return value, fmt.Errorf("reading the file: %w", WithoutPath(err))
		}
		return value, nil
	})
	read = ReadSettledFile
	return file, err
}

// Get returns the newest good value.
func (r *Reloaded[T]) Get() T {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.at) < reloadEvery {
		return r.value
	}
	value, err := r.read()
	r.at = time.Now()
	switch {
	case errors.Is(err, errUnsettled):
	case err != nil:
		if message := err.Error(); message != r.warned && r.log != nil {
			r.log.Warn("reading a setting's files again; their last good content stays in use",
				"setting", r.name, "error", Brief(message))
			r.warned = message
		}
	default:
		r.value, r.warned = value, ""
	}
	return r.value
}

// WarnTo gives the value a log for its warnings. It does nothing for nil, a setting without a file.
func (r *Reloaded[T]) WarnTo(log *slog.Logger) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log = log
}

// errUnsettled says that a program may still write the file: a later Get reads it.
var errUnsettled = errors.New("the file is being written")

// maxFile bounds a file of settings, in bytes.
const maxFile = 1 << 20

// ReadSettledFile reads a file without a change in the last reloadEvery: a program that writes it
// in place may be half-way. It refuses a file that is not regular, such as a pipe, which can be
// read only once.
func ReadSettledFile(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, WithoutPath(err)
	}
	if age := time.Since(info.ModTime()); !info.Mode().IsRegular() || age >= 0 && age < reloadEvery {
		return nil, errUnsettled
	}
	return ReadFile(name)
}

// ReadFile reads a whole file of at most 1 MiB. Its errors follow the setting's name.
func ReadFile(name string) ([]byte, error) {
	text, err := bounded.ReadFile(name, maxFile)
	var large *bounded.TooLargeError
	var path *fs.PathError
	switch {
	case errors.As(err, &large):
		return nil, fmt.Errorf("wants a file of at most %d bytes", large.Limit)
	case errors.As(err, &path) && path.Op == "read":
		return nil, fmt.Errorf("reading the file: %w", WithoutPath(err))
	case err != nil:
		return nil, fmt.Errorf("wants a file that can be read: %w", WithoutPath(err))
	}
	return text, nil
}

// WithoutPath returns an error about a file without the file's name.
func WithoutPath(err error) error {
	var path *fs.PathError
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno):
		return errno
	case errors.As(err, &path):
		return path.Err
	}
	return err
}
