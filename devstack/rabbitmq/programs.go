package rabbitmq

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
)

// HowToInstall is what a person reads where RabbitMQ is not found.
const HowToInstall = "Debian, Ubuntu: `apt-get install rabbitmq-server`; macOS: `brew install rabbitmq`"

var errNoPrograms = errors.New("finding RabbitMQ: install it (" + HowToInstall + ")")

// Installed reports whether this machine has RabbitMQ.
func Installed() bool {
	_, err := programs()
	return err == nil
}

// programs returns the folder with RabbitMQ's own scripts. Debian's in /usr/sbin are others, which
// change the user and read the settings of the machine's own node.
func programs() (string, error) {
	if _, err := exec.LookPath("epmd"); err != nil {
		return "", errNoPrograms
	}
	for _, pattern := range []string{
		"/usr/lib/rabbitmq/bin", "/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin",
		"/opt/homebrew/opt/rabbitmq/sbin", "/usr/local/opt/rabbitmq/sbin",
	} {
		matches, _ := filepath.Glob(pattern) // the patterns are constants: the only error is a malformed one
		for _, dir := range matches {
			if hasPrograms(dir) {
				return dir, nil
			}
		}
	}
	if path, err := exec.LookPath("rabbitmq-server"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil && hasPrograms(filepath.Dir(path)) {
			return filepath.Dir(path), nil
		}
	}
	return "", errNoPrograms
}

func hasPrograms(dir string) bool {
	for _, name := range []string{"rabbitmq-server", "rabbitmqctl", "rabbitmq-env"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.IsDir() {
			return false
		}
	}
	return true
}
