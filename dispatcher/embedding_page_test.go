package dispatcher_test

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestEmbeddingPage: the snippet is the Example's code, which is compiled.
func TestEmbeddingPage(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/embedding.md")
	require.NoError(t, err)
	code, err := os.ReadFile("example_test.go")
	require.NoError(t, err)
	_, snippet, found := strings.Cut(string(page), "```go\nd, err := dispatcher.New(")
	require.True(t, found)
	snippet, _, found = strings.Cut("d, err := dispatcher.New("+snippet, "```")
	require.True(t, found)
	require.Contains(t, strings.ReplaceAll(string(code), "\n\t", "\n"), snippet)
}
