package main

import (
	"bytes"
	"context"
	"image/png"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestUnmet(t *testing.T) {
	for name, c := range map[string]struct {
		e     expect
		text  string
		wants []string
	}{
		"all there": {expect{shows: []string{"a", "b c"}, match: regexp.MustCompile("[d-f]"), hides: []string{"z"}},
			"a b c d", nil},
		"text lacks":   {expect{shows: []string{"a", "x"}}, "a", []string{`no "x"`}},
		"no match":     {expect{match: regexp.MustCompile("[x-z]")}, "a", []string{`nothing like "[x-z]"`}},
		"not its own":  {expect{hides: []string{"a"}}, "a", []string{`"a", which does not belong there`}},
		"empty expect": {expect{}, "", nil},
	} {
		assert.Equal(t, c.wants, c.e.unmet(c.text), name)
	}
}

// The links of docs/web-ui.md.
func TestViewPaths(t *testing.T) {
	var paths []string
	for _, v := range views {
		paths = append(paths, v.path())
	}
	assert.Equal(t, []string{
		"/namespaces/default/workflows?query=OutflowState%3D%22retrying%22%20AND%20ExecutionStatus%3D%22Running%22&savedQuery=Retrying",
		"/namespaces/default/workflows?query=WorkflowType%3D%22Deliver%22%20AND%20ExecutionStatus%3D%22Failed%22&savedQuery=Failed",
		"/namespaces/default/workflows?query=WorkflowType%3D%22Deliver%22%20AND%20ExecutionStatus%3D%22Canceled%22&savedQuery=Cancelled",
	}, paths)
}

func TestWithoutChromium(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	out := filepath.Join(t.TempDir(), "img")
	err := run(context.Background(), []string{"-out", out}, &bytes.Buffer{})
	require.EqualError(t, err, "chromium is not installed: apt-get install chromium")
	assert.NoDirExists(t, out, "nothing was done before")
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"now"}, {"-quick"}} {
		var usage usageError
		require.ErrorAs(t, run(context.Background(), args, &bytes.Buffer{}), &usage, "%v", args)
	}
}

// TestPage is skipped without Chromium, in CI too: the pictures are in the
// repository, and "make screenshots" says what is missing.
func TestPage(t *testing.T) {
	path, err := findChromium()
	if err != nil {
		t.Skip(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte(`<body><script>setTimeout(() => document.body.innerText = "Hello,\n  " + localStorage.getItem("who"), 200)</script></body>`))
	}))
	t.Cleanup(server.Close)
	b, err := startBrowser(path)
	require.NoError(t, err)
	closed := false
	t.Cleanup(func() {
		if !closed {
			assert.NoError(t, b.close())
		}
	})
	p, err := b.newPage(t.Context(), `localStorage.setItem("who", "reader")`)
	require.NoError(t, err)

	require.NoError(t, p.show(t.Context(), "the greeting", server.URL, expect{shows: []string{"Hello, reader"}}),
		"it waits for what comes later")
	file := filepath.Join(t.TempDir(), "page.png")
	require.NoError(t, p.capture(t.Context(), file))
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	decoded, err := png.Decode(bytes.NewReader(data))
	require.NoError(t, err)
	assert.Equal(t, width, decoded.Bounds().Dx())
	assert.Equal(t, height, decoded.Bounds().Dy())

	p.timeout = time.Second
	err = p.show(t.Context(), "the farewell", server.URL, expect{shows: []string{"Goodbye"}})
	require.ErrorContains(t, err, "the farewell")
	require.ErrorContains(t, err, `no "Goodbye"`)
	require.ErrorContains(t, err, "Hello, reader", "what the page had")
	require.ErrorContains(t, p.open(t.Context(), "http://127.0.0.1:1/"), "ERR_")

	closed = true
	require.NoError(t, b.close())
	assert.NoDirExists(t, b.profile)
	assert.Error(t, p.open(t.Context(), server.URL),
		"a browser that has ended answers nothing, and nobody waits for it")
}
