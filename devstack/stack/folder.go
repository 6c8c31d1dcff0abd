package stack

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/outflowhq/outflow/devstack/postgres"
)

const (
	ephemeralPrefix = "devstack-"
	lockName        = "lock"
	removeTimeout   = 10 * time.Second
)

// folder is where a stack keeps its data and logs. It is held by a lock that ends with the process,
// however that ends: a folder whose lock is free has no owner any more.
type folder struct {
	path      string
	postgres  string // Postgres's data folder
	ephemeral bool
	lock      *os.File
}

func openFolder(o Options) (*folder, error) {
	if o.Ephemeral {
		return newEphemeral()
	}
	path, err := absolute(o.DataDir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, fmt.Errorf("making the data folder: %w", err)
	}
	f := &folder{path: path}
	file := filepath.Join(path, lockName)
	if f.lock, err = os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o644); err != nil {
		return nil, fmt.Errorf("opening the lock of %s: %w", path, err)
	}
	if err := tryLock(f.lock); err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: another devstack runs on it, or it can't be locked: %w", path,
			err), f.lock.Close())
	}
	if f.postgres, err = postgresFolder(path); err != nil {
		return nil, errors.Join(err, f.lock.Close())
	}
	return f, nil
}

// postgresFolder is inside the data folder, where Postgres's user can enter that. Else (root, in a
// folder that only root can enter) it is one in the folder for temporary files that outlive a
// restart, named after the data folder.
func postgresFolder(path string) (string, error) {
	if postgres.CanLiveIn(path) {
		return filepath.Join(path, "postgres"), nil
	}
	name := fmt.Sprintf("devstack-data-%x", sha256.Sum256([]byte(path)))[:len("devstack-data-")+12]
	for _, base := range []string{"/var/tmp", os.TempDir(), "/tmp"} {
		if !postgres.CanLiveIn(base) {
			continue
		}
		dir := filepath.Join(base, name)
		if err := ownDir(dir); err != nil {
			return "", err
		}
		return filepath.Join(dir, "postgres"), nil
	}
	return "", errors.New("finding a folder for Postgres's data that its user can enter: neither the data folder nor a temporary one is")
}

// ownDir makes dir, or checks that the one which is there is ours: others can make folders beside
// it.
func ownDir(dir string) error {
	if err := os.Mkdir(dir, 0o711); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("making Postgres's folder: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("checking Postgres's folder: %w", err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !info.IsDir() || !ok || int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("checking Postgres's folder: %s is not ours", dir)
	}
	return nil
}

func newEphemeral() (*folder, error) {
	base := os.TempDir()
	if !postgres.CanLiveIn(base) {
		base = "/tmp"
	}
	if err := sweep(base); err != nil {
		return nil, err
	}
	path, err := os.MkdirTemp(base, ephemeralPrefix)
	if err != nil {
		return nil, fmt.Errorf("making a temporary folder: %w", err)
	}
	f := &folder{path: path, postgres: filepath.Join(path, "postgres"), ephemeral: true}
	if err := f.claim(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(path))
	}
	return f, nil
}

// claim locks the file before it gets the name that sweep looks for, so that no other devstack can
// take the new folder for one without an owner.
func (f *folder) claim() error {
	if err := os.Chmod(f.path, 0o711); err != nil { // Postgres's user has to pass through
		return fmt.Errorf("opening the temporary folder: %w", err)
	}
	file := filepath.Join(f.path, lockName)
	var err error
	if f.lock, err = os.Create(file + ".new"); err != nil {
		return fmt.Errorf("making the lock of %s: %w", f.path, err)
	}
	if err := tryLock(f.lock); err != nil {
		return errors.Join(fmt.Errorf("locking %s: %w", f.path, err), f.lock.Close())
	}
	if err := os.Rename(file+".new", file); err != nil {
		return errors.Join(fmt.Errorf("naming the lock of %s: %w", f.path, err), f.lock.Close())
	}
	return nil
}

// sweep removes the folders of ephemeral stacks whose process is gone. Those of other users are not
// ours to remove.
func sweep(base string) error {
	locks, err := filepath.Glob(filepath.Join(base, ephemeralPrefix+"*", lockName))
	if err != nil {
		return fmt.Errorf("looking for folders of earlier runs: %w", err)
	}
	var errs []error
	for _, path := range locks {
		lock, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			continue // removed since, or somebody else's
		}
		if tryLock(lock) == nil {
			errs = append(errs, remove(filepath.Dir(path)))
		}
		errs = append(errs, lock.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("removing what an earlier run left: %w", err)
	}
	return nil
}

// remove takes a folder away in which a Postgres that was just stopped may still write.
func remove(dir string) error {
	for deadline := time.Now().Add(removeTimeout); ; time.Sleep(20 * time.Millisecond) {
		if err := os.RemoveAll(dir); err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

func tryLock(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) }

// logs is the path of one part's log.
func (f *folder) logs(name string) string { return filepath.Join(f.path, "logs", name+".log") }

// close gives the folder up, and removes it where it is ephemeral.
func (f *folder) close() error {
	var err error
	if f.ephemeral {
		err = os.RemoveAll(f.path)
	}
	if err := errors.Join(err, f.lock.Close()); err != nil {
		return fmt.Errorf("giving up %s: %w", f.path, err)
	}
	return nil
}
