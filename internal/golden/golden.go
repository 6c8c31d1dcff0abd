// Package golden pins why messages end dead: the text on the row of each cause, in
// a golden file and in docs/dead-messages.md.
//
// The invariant: a text that changes fails a test until it is run with -update, and
// the page shows what the code says.
package golden

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write testdata/dead.golden, and its list in docs/dead-messages.md")

// Death is a cause for which a message ends dead, and what its row says then.
type Death struct{ Cause, LastError string }

// Deaths holds all against testdata/dead.golden, and shown, which may have one item
// for many of them, against the page's list of a package, such as publish/awssqs.
// Tests call it from that package's folder. Whatever the cause, the text is one
// line that ends in what to do.
func Deaths(t *testing.T, room string, all, shown []Death) {
	t.Helper()
	const file, test, ends = "testdata/dead.golden", "TestWhyMessagesEndDead", "<!-- end of dead causes -->\n"
	root := strings.Repeat("../", strings.Count(room, "/")+1)
	page := filepath.Join(root, "docs/dead-messages.md")
	begins := fmt.Sprintf("<!-- dead causes: written by go test ./%s -run %s -update -->\n", room, test)

	var golden, list bytes.Buffer
	for _, d := range all {
		require.NotContains(t, d.LastError, "\n")
		require.NotContains(t, d.LastError, ": :", "%s: nothing is left blank", d.Cause)
		require.Regexp(t, `redirect the message|\((\S.*)\)$`, d.LastError, "%s: it says what to do", d.Cause)
		fmt.Fprintf(&golden, "%s\n\t%s\n", d.Cause, d.LastError)
	}
	fmt.Fprintln(&list)
	for _, d := range shown {
		require.NotContains(t, d.LastError, "`", "%s: the page shows it as code", d.Cause)
		fmt.Fprintf(&list, "- %s\n  %s\n", wrap(d.Cause+":"), wrap("`"+d.LastError+"`"))
	}
	fmt.Fprintln(&list)
	content, err := os.ReadFile(page)
	require.NoError(t, err)
	before, rest, found := strings.Cut(string(content), begins)
	require.True(t, found, "the page has a place for the list: %s", begins)
	written, after, found := strings.Cut(rest, ends)
	require.True(t, found)
	if *update {
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, golden.Bytes(), 0o644))
		require.NoError(t, os.WriteFile(page, []byte(before+begins+list.String()+ends+after), 0o644))
		return
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), golden.String(), "if this is meant: go test ./%s -run %s -update", room, test)
	require.Equal(t, written, list.String())
}

// wrap breaks text into lines of the page's width, as an item of a list.
func wrap(text string) string {
	const width, indent = 98, "  "
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			lines, line = append(lines, line), ""
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	return strings.Join(append(lines, line), "\n"+indent)
}
