package outflow_test

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	pageWidth   = 100
	readmeLines = 150
)

var (
	mdLink    = regexp.MustCompile(`\[[^\]]*\]\(([^)\s]+)\)`)
	mdURL     = regexp.MustCompile(`https?://[^\s)]+|\]\([^)\s]+\)`)
	mdHeading = regexp.MustCompile(`^#{1,6} +(.*)$`)
	// repoFile is a file of this repository as pages name it, in code.
	repoFile = regexp.MustCompile("`((?:[a-z0-9_]+/)*[a-zA-Z0-9_]+\\.(?:go|sql|yml))`")
)

// wideTables are pages whose tables have lines of code that a test runs as they are.
var wideTables = []string{"examples/recipes/README.md"}

// pages are the Markdown files that a reader finds: the root's, docs and the examples.
func pages(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	require.NoError(t, filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if name != "." && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "node_modules" ||
				entry.Name() == "bin") {
				return filepath.SkipDir
			}
			return nil
		}
		if strings.HasSuffix(name, ".md") {
			text, err := os.ReadFile(name)
			found[filepath.ToSlash(name)] = string(text)
			return err
		}
		return nil
	}))
	require.Contains(t, found, "README.md")
	require.Contains(t, found, "docs/glossary.md")
	return found
}

// prose calls each for the lines of a page outside of its code blocks.
func prose(page string, each func(number int, line string)) {
	code := false
	for i, line := range strings.Split(page, "\n") {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			code = !code
			continue
		}
		if !code {
			each(i+1, line)
		}
	}
}

// anchors are those of a page's headings, as GitHub makes them.
func anchors(page string) []string {
	var found []string
	prose(page, func(_ int, line string) {
		heading := mdHeading.FindStringSubmatch(line)
		if heading == nil {
			return
		}
		anchor := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case unicode.IsLetter(r) || unicode.IsDigit(r) || r == '-' || r == '_':
				return unicode.ToLower(r)
			}
			return -1
		}, heading[1])
		for n, plain := 1, anchor; slices.Contains(found, anchor); n++ {
			anchor = fmt.Sprintf("%s-%d", plain, n)
		}
		found = append(found, anchor)
	})
	return found
}

func TestPagesLinksResolve(t *testing.T) {
	all := pages(t)
	links := 0
	for name, page := range all {
		// A link's text may be broken over two lines.
		for _, link := range mdLink.FindAllStringSubmatch(outsideCode(page), -1) {
			target, anchor, hasAnchor := strings.Cut(link[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			links++
			file := name
			if target != "" {
				file = path.Join(path.Dir(name), target)
				_, err := os.Stat(file)
				assert.NoError(t, err, "%s links to %s", name, link[1])
			}
			if hasAnchor {
				assert.Contains(t, anchors(all[file]), anchor, "%s links to %s", name, link[1])
			}
		}
	}
	assert.Greater(t, links, 100)
}

// outsideCode is a page without its code blocks.
func outsideCode(page string) string {
	var b strings.Builder
	prose(page, func(_ int, line string) { b.WriteString(line + "\n") })
	return b.String()
}

// TestPagesAreNarrow: a URL may be longer than a line, and does not count.
func TestPagesAreNarrow(t *testing.T) {
	for name, page := range pages(t) {
		prose(page, func(number int, line string) {
			if strings.HasPrefix(line, "|") && slices.Contains(wideTables, name) {
				return
			}
			if width := utf8.RuneCountInString(mdURL.ReplaceAllString(line, "")); width > pageWidth {
				t.Errorf("%s:%d has %d columns, more than %d", name, number, width, pageWidth)
			}
		})
	}
	assert.LessOrEqual(t, strings.Count(pages(t)["README.md"], "\n"), readmeLines,
		"what is more goes to a page by topic")
}

// TestEveryPageIsLinkedFromTheReadme: a reader finds each page in one hop.
func TestEveryPageIsLinkedFromTheReadme(t *testing.T) {
	all := pages(t)
	for name := range all {
		if path.Dir(name) == "docs" {
			assert.Contains(t, all["README.md"], "]("+name, name)
		}
	}
}

// TestArchitectureIsTheMap: the page has each folder with Go files, and names only files
// that exist.
func TestArchitectureIsTheMap(t *testing.T) {
	page := pages(t)["docs/architecture.md"]
	_, folders, found := strings.Cut(page, "## The map\n")
	require.True(t, found)
	_, folders, found = strings.Cut(folders, "```\n")
	require.True(t, found)
	folders, _, _ = strings.Cut(folders, "```")
	listed := map[string]bool{}
	for line := range strings.Lines(folders) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		listed[strings.TrimSuffix(name, "/")] = true
	}
	require.NoError(t, filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		hidden := name != "." && strings.HasPrefix(entry.Name(), ".")
		if hidden || slices.Contains([]string{"testdata", "node_modules", "bin"}, entry.Name()) {
			return filepath.SkipDir
		}
		files, err := filepath.Glob(filepath.Join(name, "*.go"))
		folder := filepath.ToSlash(name)
		if folder != "." { // the root is described below the list
			assert.Equal(t, len(files) > 0, listed[folder], "%s: the map has the folders with Go files", folder)
		}
		delete(listed, folder)
		return err
	}))
	assert.Empty(t, listed, "folders of docs/architecture.md that do not exist")
	for _, named := range repoFile.FindAllStringSubmatch(page, -1) {
		_, err := os.Stat(named[1])
		assert.NoError(t, err, "docs/architecture.md names %s", named[1])
	}
}

// foreignTexts are quoted in docs/troubleshooting.md, and come from Temporal or Postgres.
var foreignTexts = []string{
	"Namespace", "is not found", "Workflow has unhandled signals", "[try-now]", "permission denied for",
}

// TestSymptomsAreTheProgramsWords: what docs/troubleshooting.md quotes at the head of an
// item, as somebody sees it, is a text of the programs.
func TestSymptomsAreTheProgramsWords(t *testing.T) {
	page := pages(t)["docs/troubleshooting.md"]
	source := programSource(t)
	verbs := strings.NewReplacer("schema outbox", "schema %s", "8 times", "%d times")
	symptoms := regexp.MustCompile("(?m)^- \\*\\*`([^`]+)`").FindAllStringSubmatch(page, -1)
	require.Greater(t, len(symptoms), 15)
	for _, symptom := range symptoms {
		for _, part := range strings.Split(symptom[1], "…") {
			part = strings.TrimSuffix(strings.Join(strings.Fields(part), " "), " error=")
			if part == "" || part == "error=" || strings.HasPrefix(part, `"more"`) ||
				slices.Contains(foreignTexts, part) {
				continue
			}
			assert.True(t, strings.Contains(source, verbs.Replace(part)), "no program says %q", part)
		}
	}
}

// TestPagesNameMethodsThatExist: "Store.Claim" on a page is a method of the code.
func TestPagesNameMethodsThatExist(t *testing.T) {
	all, source := pages(t), programSource(t)
	method := regexp.MustCompile("`(Store|Operator|Scanner|Activities)\\.([A-Za-z]+)`")
	named := 0
	for _, page := range []string{"docs/architecture.md", "docs/message-life.md"} {
		for _, m := range method.FindAllStringSubmatch(all[page], -1) {
			named++
			assert.True(t, regexp.MustCompile(`func \(\w+ \*`+m[1]+`\) `+m[2]+`\(`).MatchString(source),
				"%s names %s.%s", page, m[1], m[2])
		}
	}
	assert.Greater(t, named, 10)
}
