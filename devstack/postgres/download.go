package postgres

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	embedded "github.com/fergusstrange/embedded-postgres"

	"github.com/outflowhq/outflow/devstack/ports"
)

// downloaded fetches Postgres's binaries with the embedded-postgres library, once a machine and
// user.
//
// The library has no call for fetching alone: its Start fetches, then makes and starts a cluster.
// For root that second half must fail; only the binaries count, so its error is looked at only
// where they are missing afterwards.
func downloaded(who *account) (string, error) {
	home, err := binariesHome(who)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(home, "postgres-"+string(embedded.V17))
	if hasServer(filepath.Join(dir, "bin")) {
		return filepath.Join(dir, "bin"), nil
	}
	tmp, err := os.MkdirTemp(home, "fetching-")
	if err != nil {
		return "", fmt.Errorf("making a folder for Postgres's binaries: %w", err)
	}
	defer os.RemoveAll(tmp)
	port, err := ports.Free()
	if err != nil {
		return "", err
	}
	unpacked := filepath.Join(tmp, "unpacked")
	db := embedded.NewDatabase(embedded.DefaultConfig().Version(embedded.V17).Port(uint32(port)).Logger(io.Discard).
		CachePath(filepath.Join(tmp, "archive")).BinariesPath(unpacked).RuntimePath(filepath.Join(tmp,
		"run")).DataPath(filepath.Join(tmp, "data")))
	startErr := db.Start()
	if startErr == nil {
		if err := db.Stop(); err != nil {
			return "", fmt.Errorf("stopping the trial cluster: %w", err)
		}
	}
	if !hasServer(filepath.Join(unpacked, "bin")) {
		return "", fmt.Errorf("downloading Postgres %s: %w", embedded.V17, startErr)
	}
	// Renamed as a whole, so that a broken download is never taken for a server; another process
	// may have been faster.
	if err := os.Rename(unpacked, dir); err != nil && !hasServer(filepath.Join(dir, "bin")) {
		return "", fmt.Errorf("placing Postgres's binaries: %w", err)
	}
	return filepath.Join(dir, "bin"), nil
}

// binariesHome is the user's cache folder, or a temporary one where Postgres's user can't enter
// that (root's home). A folder that somebody else made is refused: what lies in it will be run.
func binariesHome(who *account) (string, error) {
	base, err := os.UserCacheDir()
	if err != nil || !who.canEnter(base) {
		base = os.TempDir()
	}
	home := filepath.Join(base, fmt.Sprintf("outflow-devstack-%d", os.Geteuid()))
	if err := os.MkdirAll(home, 0o755); err != nil {
		return "", fmt.Errorf("making a folder for Postgres's binaries: %w", err)
	}
	info, err := os.Lstat(home)
	if err != nil {
		return "", fmt.Errorf("checking the folder of Postgres's binaries: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok || int(st.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return "", fmt.Errorf("checking the folder of Postgres's binaries: %s is not ours alone", home)
	}
	return home, nil
}
