package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
)

// clearStale corrects postmaster.pid. Postgres itself believes the file as soon as any process has
// that ID, which in a container is likely. A postmaster of this folder that still runs is waited
// for: it ends with its devstack died.
func clearStale(ctx context.Context, dir string) error {
	file := filepath.Join(dir, "postmaster.pid")
	for {
		b, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading %s: %w", file, err)
		}
		line, _, _ := bytes.Cut(b, []byte("\n"))
		pid, err := strconv.Atoi(string(bytes.TrimSpace(line)))
		if err != nil || !isPostmaster(pid, dir) {
			if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("removing a stale postmaster.pid: %w", err)
			}
			return nil
		}
		if !pause(ctx) {
			return fmt.Errorf("waiting for the Postgres of %s (process %d) to end: %w", dir, pid, ctx.Err())
		}
	}
}

// isPostmaster reports whether process pid is a server of the data folder. Without /proc any living
// process counts.
func isPostmaster(pid int, dir string) bool {
	if pid <= 1 || errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return false
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return !errors.Is(err, os.ErrNotExist) || !hasProc()
	}
	return strings.Contains(string(b), "-D\x00"+dir+"\x00")
}

func hasProc() bool {
	_, err := os.Stat("/proc/self/cmdline")
	return err == nil
}

// Kill is a crash, for tests: SIGKILL to the postmaster and every backend at once. The next Start
// on the folder recovers from the log. Without Options.Durable the last commits may be gone.
func (c *Cluster) Kill() error {
	// Stopped first, so that it can't start a backend between the count and the kill.
	if err := c.process.Signal(syscall.SIGSTOP); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stopping the postmaster: %w", err)
	}
	backends := childrenOf(c.process.Pid())
	if err := c.process.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("killing the postmaster: %w", err)
	}
	for _, pid := range backends {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("killing backend %d: %w", pid, err)
		}
	}
	<-c.Done()
	return nil
}

// childrenOf lists the direct children of a process from /proc; without it none are known, and
// backends end by themselves as they notice the postmaster's end.
func childrenOf(parent int) []int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is a constant: the only error is a malformed one
	var pids []int
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // gone since the listing
		}
		// The second field is the name in brackets, which may hold anything: the fields after it
		// are counted from its end.
		_, rest, ok := strings.Cut(string(b[max(0, bytes.LastIndexByte(b, ')')):]), ") ")
		fields := strings.Fields(rest)
		if !ok || len(fields) < 2 || fields[1] != strconv.Itoa(parent) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// isDuplicate: 42P04 is duplicate_database; 23505 is what a lost race inside CREATE DATABASE looks
// like.
func isDuplicate(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == "42P04" || pg.Code == "23505")
}
