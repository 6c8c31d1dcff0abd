// Command conformance prints which publisher passes which case of the conformance suite, with the
// reasons of the cases that it skips. It reads what "go test -json" writes:
//
//	go test -json -run TestConformance ./publish/... | go run ./publish/publishtest/conformance
//
// The invariant: a case that failed, or that did not run, is never shown as passed, and the command
// then fails.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/outflowhq/outflow/publish/publishtest"
)

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

// event is a line of "go test -json": https://pkg.go.dev/cmd/test2json.
type event struct{ Action, Package, Test, Output string }

// results are of one publisher: how each case ended, by its name.
type results map[string]outcome

type outcome struct {
	action string // pass, skip or fail
	output string
}

func run(in io.Reader, out io.Writer) error {
	all, err := read(in)
	if all == nil {
		return err
	}
	if len(all) == 0 && err == nil {
		return errors.New("no test of a conformance suite ran: " +
			"pipe go test -json -run TestConformance into this command")
	}
	return errors.Join(write(out, all), err)
}

// read returns the results by publisher: the package's name, and the variant where it has several.
func read(in io.Reader) (_ map[string]results, err error) {
	cases := map[string]string{} // by their name in "go test"
	for name := range publishtest.Cases {
		cases[strings.ReplaceAll(name, " ", "_")] = name
	}
	all, outputs := map[string]results{}, map[string]string{}
	var broken []string // packages with a failure, which may be that nothing could be built
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("reading the line %.100q: %w", lines.Text(), err)
		}
		if e.Test == "" && e.Action == "fail" {
			broken = append(broken, e.Package)
		}
		parts := strings.Split(e.Test, "/")
		name, known := cases[parts[len(parts)-1]]
		if parts[0] != "TestConformance" || !known {
			continue
		}
		test := e.Package + "/" + e.Test
		outputs[test] += e.Output
		if e.Action != "pass" && e.Action != "skip" && e.Action != "fail" {
			continue
		}
		publisher := strings.Join(append([]string{path.Base(e.Package)}, parts[1:len(parts)-1]...), " ")
		if all[publisher] == nil {
			all[publisher] = results{}
		}
		all[publisher][name] = outcome{e.Action, outputs[test]}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(broken) > 0 {
		err = fmt.Errorf("go test failed in %s", strings.Join(broken, ", "))
	}
	return all, err
}

// reasonLine is what t.Skip writes, with the file and the line of its call.
var reasonLine = regexp.MustCompile(`(?m)^\s+[\w.]+\.go:\d+: (.*)$`)

func write(out io.Writer, all map[string]results) error {
	publishers := slices.Sorted(maps.Keys(all))
	fmt.Fprintf(out, "| case | %s |\n|---|%s\n", strings.Join(publishers, " | "),
		strings.Repeat("---|", len(publishers)))
	var reasons []string
	var failed int
	for _, name := range slices.Sorted(maps.Keys(publishtest.Cases)) {
		row := "| " + name + " |"
		for _, publisher := range publishers {
			o, ran := all[publisher][name]
			switch {
			case !ran:
				row += " did not run |"
				failed++
			case o.action == "skip":
				reason := "no reason"
				if said := reasonLine.FindStringSubmatch(o.output); said != nil {
					reason = said[1]
				}
				at := slices.Index(reasons, reason)
				if at < 0 {
					at, reasons = len(reasons), append(reasons, reason)
				}
				row += fmt.Sprintf(" skipped (%d) |", at+1)
			case o.action == "pass":
				row += " passed |"
			default:
				row += " FAILED |"
				failed++
			}
		}
		fmt.Fprintln(out, row)
	}
	fmt.Fprintln(out)
	for i, reason := range reasons {
		fmt.Fprintf(out, "%d. %s\n", i+1, reason)
	}
	if failed > 0 {
		return fmt.Errorf("%d cases failed or did not run", failed)
	}
	return nil
}
