package outflow_test

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var (
	testFunction = regexp.MustCompile(`(?m)^func (Test[A-Za-z0-9]*)\(`)
	namedTest    = regexp.MustCompile("`(Test[A-Za-z0-9]*)`")
	namedRoom    = regexp.MustCompile("`([a-z/0-9]+)`")
)

// testRooms are the rooms that have a test of each name.
func testRooms(t *testing.T) map[string][]string {
	t.Helper()
	rooms := map[string][]string{}
	require.NoError(t, filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(name, "_test.go") {
			return err
		}
		source, err := os.ReadFile(name)
		for _, found := range testFunction.FindAllStringSubmatch(string(source), -1) {
			rooms[found[1]] = append(rooms[found[1]], path.Dir(filepath.ToSlash(name)))
		}
		return err
	}))
	return rooms
}

// misplaced are the tests of a table "| | test | where |" that are not where it says.
// Semicolons part both columns alike; of several rooms each has the tests.
func misplaced(page string, rooms map[string][]string) (placed int, wrong []string) {
	_, table, _ := strings.Cut(page, "| | test | where |\n")
	table, _, _ = strings.Cut(table, "\n\n")
	for row := range strings.Lines(table) {
		cells := strings.Split(row, "|")
		if len(cells) != 5 || !strings.Contains(row, "`") {
			continue // the line below the heading
		}
		tests, where := strings.Split(cells[2], ";"), strings.Split(cells[3], ";")
		if len(tests) != len(where) {
			wrong = append(wrong, "as many parts of rooms as of tests: "+strings.TrimSpace(row))
			continue
		}
		for i := range tests {
			for _, test := range namedTest.FindAllStringSubmatch(tests[i], -1) {
				for _, room := range namedRoom.FindAllStringSubmatch(where[i], -1) {
					placed++
					if !slices.Contains(rooms[test[1]], room[1]) {
						wrong = append(wrong, test[1]+" in "+room[1])
					}
				}
			}
		}
	}
	return placed, wrong
}

// Every test that docs/guarantees.md names is there, and where it says.
func TestGuaranteesNameTheirTests(t *testing.T) {
	page, err := os.ReadFile("docs/guarantees.md")
	require.NoError(t, err)
	rooms := testRooms(t)
	names := namedTest.FindAllStringSubmatch(string(page), -1)
	require.Greater(t, len(names), 40)
	for _, name := range names {
		assert.NotEmpty(t, rooms[name[1]], "no test %s", name[1])
	}
	placed, wrong := misplaced(string(page), rooms)
	assert.Greater(t, placed, 20)
	assert.Empty(t, wrong)
}

func TestMisplacedTestsAreFound(t *testing.T) {
	rooms := map[string][]string{"TestClaim": {"outboxdb"}, "TestLost": {"devstack/e2e", "internal/service"}}
	table := func(rows string) string {
		return "x\n\n| | test | where |\n| --- | --- | --- |\n" + rows + "\n`TestElsewhere`\n"
	}
	placed, wrong := misplaced(table("| a | `TestLost`, at each step; `TestClaim` | `devstack/e2e`, `internal/service`; `outboxdb` |\n"), rooms)
	assert.Equal(t, 3, placed)
	assert.Empty(t, wrong)
	_, wrong = misplaced(table("| a | `TestLost`; `TestClaim` | `outboxdb`; `internal/service` |\n| b | `TestClaim` | `outboxdb`, `scanner` |\n| c | `TestGone` | `scanner` |\n"), rooms)
	assert.Equal(t, []string{"TestLost in outboxdb", "TestClaim in internal/service", "TestClaim in scanner",
		"TestGone in scanner"}, wrong)
	_, wrong = misplaced(table("| a | `TestLost`, `TestClaim` | `devstack/e2e`; `outboxdb` |\n"), rooms)
	assert.Equal(t, []string{"as many parts of rooms as of tests: | a | `TestLost`, `TestClaim` | `devstack/e2e`; `outboxdb` |"}, wrong)
}
