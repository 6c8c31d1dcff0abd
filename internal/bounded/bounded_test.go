package bounded_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/bounded"
)

func TestReadFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(name, []byte("12345"), 0o600))
	content, err := bounded.ReadFile(name, 5)
	require.NoError(t, err)
	require.Equal(t, "12345", string(content))

	_, err = bounded.ReadFile(name, 4)
	var tooLarge *bounded.TooLargeError
	require.ErrorAs(t, err, &tooLarge)
	require.EqualError(t, err, "wants at most 4 bytes")
	_, err = bounded.ReadFile(name+"x", 4)
	require.ErrorIs(t, err, os.ErrNotExist)
}

// Reading a stream that never ends stops at the limit.
func TestReadAll(t *testing.T) {
	content, err := bounded.ReadAll(strings.NewReader(""), 0)
	require.NoError(t, err)
	require.Empty(t, content)
	_, err = bounded.ReadAll(endless{}, 1<<20)
	require.EqualError(t, err, "wants at most 1048576 bytes")
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
