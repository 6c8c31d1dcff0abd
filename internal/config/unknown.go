package config

import (
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/outflowhq/outflow/internal/settings"
)

const ownPrefix = "OUTFLOW_"

// operatorSettings are the variables that the command outflow alone reads.
var operatorSettings = []string{"OUTFLOW_WHO", "OUTFLOW_TEMPORAL_UI"}

// injected are what Kubernetes sets in every pod for a Service whose name begins with
// "outflow-".
// https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
var injected = regexp.MustCompile(
	`_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// Unknown returns a warning for each variable of the process that has the form of an Outflow
// setting and is none. It repeats no value. It skips variables that getenv does not have.
func Unknown(getenv func(string) string) []string {
	known := slices.Clone(operatorSettings)
	for _, s := range Settings {
		known = append(known, s.Name)
	}
	var warnings []string
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		upper := strings.ToUpper(name)
		if !strings.HasPrefix(upper, ownPrefix) || slices.Contains(known, name) || injected.MatchString(name) ||
			getenv(name) == "" {
			continue
		}
		warning := settings.Brief(name) + ": no setting has this name"
		if near := nearest(upper, known); near != "" {
			warning += "; did you mean " + near + "?"
		}
		warnings = append(warnings, warning)
	}
	slices.Sort(warnings)
	return warnings
}

// nearest returns the known name that a few typing errors lead to, or "".
func nearest(name string, known []string) string {
	best, distance := "", 4
	for _, k := range known {
		if d := edits(name, k); d < distance && d <= (len(k)-len(ownPrefix))/2 {
			best, distance = k, d
		}
	}
	return best
}

// edits is the number of letters to insert, delete or change that lead from a to b.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
