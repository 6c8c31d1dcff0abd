// Package adopt has a service before and after it adopts Outflow, and counts the lines that
// differ.
package adopt

import (
	"errors"
	"os"
	"os/exec"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

// maxLines bounds the changed lines of a service that adopts Outflow.
const maxLines = 30

var changed = regexp.MustCompile(`(?m)^[<>]`)

// TestAdoptingIsSmall counts added and removed lines as diff does, comments and
// imports among them; tests are not.
func TestAdoptingIsSmall(t *testing.T) {
	out, err := exec.Command("diff", "-r", "-x", "*_test.go", "before", "after").Output()
	var exit *exec.ExitError
	require.True(t, errors.As(err, &exit) && exit.ExitCode() == 1, "diff: %v", err) // 1: they differ
	lines := len(changed.FindAll(out, -1))
	require.Positive(t, lines)
	require.LessOrEqual(t, lines, maxLines, "%s", out)
	t.Logf("%d changed lines", lines)
}

func TestBothBuild(t *testing.T) {
	for _, folder := range []string{"./before", "./after"} {
		cmd := exec.Command("go", "build", "-o", os.DevNull, folder)
		cmd.Env = append(os.Environ(), "GOWORK=off")
		said, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", said)
	}
}
