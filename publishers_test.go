package outflow_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// alsoUses are the rooms that use a publisher beside its registration.
var alsoUses = map[string]string{
	"publish/webhook": "internal/callbacks", // a callback is a signed request, too
}

// TestANewBrokerTouchesFewLines counts what each publisher changed outside its own folder: one file
// with its registration, and one line in the list of registrations.
func TestANewBrokerTouchesFewLines(t *testing.T) {
	importers := map[string][]string{} // by publisher, files outside its folder
	folders, err := os.ReadDir("publish")
	require.NoError(t, err)
	for _, entry := range folders {
		if folder := path.Join("publish", entry.Name()); entry.IsDir() && declaresScheme(t, folder) {
			importers[folder] = nil
		}
	}
	require.Contains(t, importers, "publish/awssqs")
	err = filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (name == "examples" || name == "devstack" || name == "bench"):
			return filepath.SkipDir
		case !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, i := range file.Imports {
			imported, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			folder := strings.TrimPrefix(imported, module+"/")
			if _, publisher := importers[folder]; publisher && alsoUses[folder] != path.Dir(name) {
				importers[folder] = append(importers[folder], filepath.ToSlash(name))
			}
		}
		return nil
	})
	require.NoError(t, err)
	for folder, files := range importers {
		if assert.Len(t, files, 1, "%s: one file registers it", folder) {
			assert.Equal(t, "internal/brokers", path.Dir(files[0]), "%s", folder)
		}
	}

	source, err := os.ReadFile("internal/brokers/brokers.go")
	require.NoError(t, err)
	list := regexp.MustCompile(`(?s)return \[\]registration\{\n(.*?)\n\t\}`).FindStringSubmatch(string(source))
	require.NotNil(t, list, "the list of registrations")
	assert.Len(t, strings.Split(list[1], "\n"), len(importers), "a line for each publisher")
}

// declaresScheme reports whether a folder has a publisher: a type with the method Scheme.
func declaresScheme(t *testing.T, folder string) bool {
	files, err := filepath.Glob(folder + "/*.go")
	require.NoError(t, err)
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		require.NoError(t, err)
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if ok && f.Recv != nil && f.Name.Name == "Scheme" && !strings.HasSuffix(name, "_test.go") {
				return true
			}
		}
	}
	return false
}
