package outflow_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every test that docs/guarantees.md names is there.
func TestGuaranteesNameTheirTests(t *testing.T) {
	page, err := os.ReadFile("docs/guarantees.md")
	require.NoError(t, err)
	names := regexp.MustCompile("`(Test[A-Za-z0-9]*)`").FindAllStringSubmatch(string(page), -1)
	require.Greater(t, len(names), 40)
	var tests strings.Builder
	require.NoError(t, filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(name, "_test.go") {
			return err
		}
		source, err := os.ReadFile(name)
		tests.Write(source)
		return err
	}))
	for _, name := range names {
		require.True(t, strings.Contains(tests.String(), "\nfunc "+name[1]+"("), "no test %s", name[1])
	}
}
