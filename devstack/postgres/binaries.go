package postgres

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// errNoBinaries is what a person reads where Postgres is not found and can't be fetched: one line,
// with the cure.
var errNoBinaries = errors.New("finding Postgres: install it (Debian, Ubuntu: `apt-get install postgresql`; Fedora: `dnf install postgresql-server postgresql-contrib`; macOS: `brew install postgresql@17`), or give --database-url")

// binaries returns the folder with initdb and postgres. A cluster that exists (major is its
// PG_VERSION) wants its own major version; a new one ("" ) gets the newest.
func binaries(major string, who *account) (string, error) {
	found := installed()
	if major != "" {
		for _, dir := range found {
			if v := versionOf(dir); v == major || v == "" {
				return dir, nil
			}
		}
	}
	if len(found) > 0 {
		return found[0], nil
	}
	dir, err := downloaded(who)
	if err != nil {
		return "", fmt.Errorf("%w (fetching it instead: %w)", errNoBinaries, err)
	}
	return dir, nil
}

// installed lists the folders on this machine that hold a server, the best one first: packages by
// version, newest first, then by hand, then Homebrew, then PATH.
func installed() []string {
	var dirs []string
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin",
		"/usr/local/pgsql/bin", "/usr/local/bin",
		"/opt/homebrew/opt/postgresql@*/bin", "/usr/local/opt/postgresql@*/bin",
		"/opt/homebrew/bin",
	} {
		matches, _ := filepath.Glob(pattern) // the patterns are constants: the only error is a malformed one
		slices.SortStableFunc(matches, func(a, b string) int { return number(versionOf(b)) - number(versionOf(a)) })
		dirs = append(dirs, matches...)
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(path))
		}
	}
	return slices.DeleteFunc(dirs, func(dir string) bool { return !hasServer(dir) })
}

func hasServer(dir string) bool {
	for _, name := range []string{"initdb", "postgres"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.IsDir() {
			return false
		}
	}
	return true
}

// versionOf reads the major version out of a folder's name, as in /usr/lib/postgresql/17/bin or
// postgresql@17/bin.
func versionOf(dir string) string {
	name := filepath.Base(filepath.Dir(dir))
	if i := strings.LastIndexAny(name, "@-"); i >= 0 {
		name = name[i+1:]
	}
	if number(name) == 0 {
		return ""
	}
	return name
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0
	}
	return n
}

// hasLibrary looks for a loadable module beside the binaries, in the places that packages use.
func hasLibrary(bin, name string) bool {
	for _, lib := range []string{"lib", "lib/postgresql", "lib64/pgsql"} {
		for _, ext := range []string{".so", ".dylib"} {
			if _, err := os.Stat(filepath.Join(filepath.Dir(bin), lib, name+ext)); err == nil {
				return true
			}
		}
	}
	return false
}
