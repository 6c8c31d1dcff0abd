package ports

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

const asOther = "DEVSTACK_PORTS_OTHER"

// TestNobodyElseGetsAPort: a chosen port on which nothing listens yet is given to nobody else, in
// this process or in another.
func TestNobodyElseGetsAPort(t *testing.T) {
	const chosen = 300 // by two processes: without locks some 9 of 10,000 ports would be chosen twice
	if os.Getenv(asOther) != "" {
		for range chosen {
			port, err := Free()
			if err != nil {
				t.Fatal(err)
			}
			fmt.Println("port", port)
		}
		return
	}
	mine := map[int]bool{}
	for range chosen {
		port, err := Free()
		if err != nil {
			t.Fatal(err)
		}
		if mine[port] {
			t.Errorf("port %d was chosen twice", port)
		}
		mine[port] = true
	}
	others := func() (all []int) {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestNobodyElseGetsAPort$")
		cmd.Env = append(os.Environ(), asOther+"=1")
		said, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("the other process: %v\n%s", err, said)
		}
		for line := range strings.Lines(string(said)) {
			var port int
			if n, _ := fmt.Sscanf(line, "port %d", &port); n == 1 {
				all = append(all, port)
			}
		}
		if len(all) != chosen {
			t.Errorf("the other process chose %d ports, not %d:\n%s", len(all), chosen, said)
		}
		for _, port := range all {
			if mine[port] {
				t.Errorf("port %d was chosen by another process too", port)
			}
		}
		return all
	}
	for _, port := range others() { // that process has ended: as with the ports of an earlier stack
		if _, err := Or(port); err == nil { // else some process beside this test has it by now
			mine[port] = true
		}
	}
	others()
}
