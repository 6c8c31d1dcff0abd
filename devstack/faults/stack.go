package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/outflowhq/outflow/devstack/postgres"
)

// Stack is what all worlds of a process share. Down takes it down; so does the
// end of the process, however it ends.
type Stack struct {
	// Application is the cluster of the outboxes, EngineStore that of Temporal.
	Application, EngineStore *Database
	Temporal                 *Engine

	rabbits []*Rabbit
	dir     string
}

// Up brings both clusters and Temporal up, in a new folder below the one for
// temporary files.
func Up(ctx context.Context) (*Stack, error) {
	base := os.TempDir()
	if !postgres.CanLiveIn(base) {
		base = "/tmp"
	}
	dir, err := os.MkdirTemp(base, "faults-")
	if err != nil {
		return nil, fmt.Errorf("making a temporary folder: %w", err)
	}
	s := &Stack{dir: dir}
	if err := s.up(ctx); err != nil {
		return nil, errors.Join(err, s.Down(false))
	}
	return s, nil
}

func (s *Stack) up(ctx context.Context) error {
	// Postgres's user has to pass through.
	if err := errors.Join(os.Chmod(s.dir, 0o711), os.Mkdir(s.Logs(), 0o755)); err != nil {
		return fmt.Errorf("opening the temporary folder: %w", err)
	}
	var err error
	if s.Application, err = startDatabase(ctx, s.dir, "application"); err != nil {
		return err
	}
	if s.EngineStore, err = startDatabase(ctx, s.dir, "engine"); err != nil {
		return err
	}
	if s.Temporal, err = newEngine(s.EngineStore.URL("postgres"), filepath.Join(s.Logs(), "temporal.log")); err != nil {
		return err
	}
	return s.Temporal.Start(ctx)
}

// LoseTemporal kills Temporal's server, and starts it on empty databases: the
// namespace has its old name, and there is no run in it.
func (s *Stack) LoseTemporal(ctx context.Context) error {
	if err := s.Temporal.Kill(); err != nil {
		return err
	}
	if err := s.EngineStore.Empty(ctx); err != nil {
		return err
	}
	return s.Temporal.Start(ctx)
}

// Logs is the folder of every part's log.
func (s *Stack) Logs() string { return filepath.Join(s.dir, "logs") }

// Down takes all down and, unless they are to be kept, removes data and logs.
func (s *Stack) Down(keep bool) error {
	var errs []error
	for _, r := range s.rabbits {
		errs = append(errs, r.close())
	}
	if s.Temporal != nil {
		errs = append(errs, s.Temporal.Kill()) // nobody reads its data again
	}
	for _, d := range []*Database{s.EngineStore, s.Application} {
		if d != nil {
			errs = append(errs, d.Crash())
		}
	}
	if !keep {
		errs = append(errs, os.RemoveAll(s.dir))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("taking the stack down: %w", err)
	}
	return nil
}
