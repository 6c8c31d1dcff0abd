package outflow_test

import (
	"archive/zip"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestReadmeSaysWhichGo: the pages ask for the Go of go.mod.
func TestReadmeSaysWhichGo(t *testing.T) {
	module, err := os.ReadFile("go.mod")
	require.NoError(t, err)
	wants := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindSubmatch(module)
	require.NotNil(t, wants)
	for _, name := range []string{"README.md", "CONTRIBUTING.md"} {
		page, err := os.ReadFile(name)
		require.NoError(t, err)
		require.Contains(t, string(page), " need Go "+string(wants[1])+", make", name)
	}
}

// TestReadmeInstalls runs the README's go install and go get against a proxy that
// serves this checkout as a release, and the libraries from the module cache.
func TestReadmeInstalls(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	proxy, home := t.TempDir(), t.TempDir()
	serveCheckout(t, proxy)
	run := func(dir, line string) {
		t.Helper()
		command := strings.Fields(line)
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Dir = dir
		cache := strings.TrimSpace(goOutput(t, "env", "GOMODCACHE"))
		cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-modcacherw -trimpath", "CGO_ENABLED=0", "GOSUMDB=off",
			"GOBIN="+filepath.Join(home, "bin"), "GOMODCACHE="+filepath.Join(home, "mod"),
			"GOPROXY=file://"+proxy+",file://"+filepath.Join(cache, "cache", "download")+",off", "GOTOOLCHAIN=local")
		said, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s\n%s", line, said)
	}
	lines := regexp.MustCompile(`(?m)^go (install|get) [^#\n]+`).FindAllString(string(readme), -1)
	require.Len(t, lines, 2)
	run(home, lines[0])
	programs, err := filepath.Glob(filepath.Join(home, "bin", "*"))
	require.NoError(t, err)
	for i := range programs {
		programs[i] = filepath.Base(programs[i])
	}
	require.Equal(t, []string{"outflow"}, programs)

	shop := filepath.Join(home, "shop")
	require.NoError(t, os.Mkdir(shop, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(shop, "go.mod"), []byte("module example.com/shop\n\ngo 1.26.0\n"),
		0o644))
	run(shop, lines[1])
	required, err := os.ReadFile(filepath.Join(shop, "go.mod"))
	require.NoError(t, err)
	require.Contains(t, string(required), module+" "+release)
}

const release = "v0.0.1"

// serveCheckout lays the checkout out as a module proxy serves a release: without
// the modules below it.
func serveCheckout(t *testing.T, proxy string) {
	t.Helper()
	versions := filepath.Join(proxy, module, "@v")
	require.NoError(t, os.MkdirAll(versions, 0o755))
	goMod, err := os.ReadFile("go.mod")
	require.NoError(t, err)
	for name, content := range map[string]string{
		"list": release + "\n", release + ".info": `{"Version":"` + release + `"}`, release + ".mod": string(goMod),
	} {
		require.NoError(t, os.WriteFile(filepath.Join(versions, name), []byte(content), 0o644))
	}
	file, err := os.Create(filepath.Join(versions, release+".zip"))
	require.NoError(t, err)
	archive := zip.NewWriter(file)
	require.NoError(t, filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			_, nested := os.Stat(filepath.Join(path, "go.mod"))
			if path != "." && (nested == nil ||
				slices.Contains([]string{".git", ".devstack", "bin", "node_modules"}, entry.Name())) {
				return fs.SkipDir
			}
			return nil
		}
		if !entry.Type().IsRegular() || path == ".git" {
			return nil
		}
		from, err := os.Open(path)
		if err != nil {
			return err
		}
		defer from.Close()
		to, err := archive.Create(module + "@" + release + "/" + filepath.ToSlash(path))
		if err != nil {
			return err
		}
		_, err = io.Copy(to, from)
		return err
	}))
	require.NoError(t, archive.Close())
	require.NoError(t, file.Close())
}

func goOutput(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("go", args...).Output()
	require.NoError(t, err)
	return string(out)
}
