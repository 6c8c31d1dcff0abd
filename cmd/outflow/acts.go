package main

import (
	"flag"
	"maps"
	"slices"
)

// act is a word after a command, such as set, and the flags that it has beside those of every act.
type act struct {
	name  string
	flags []string
}

// actFlagsOfAll are the flags of every act.
var actFlagsOfAll = []string{"json", "who", "why"}

// chooseAct takes the act from the words of a command, and returns the words after it. A flag of
// another act is a mistake.
func chooseAct(flags *flag.FlagSet, words []string, acts []act) (chosen string, rest []string, err error) {
	var names []string
	for _, a := range acts {
		names = append(names, a.name)
	}
	if len(words) == 0 {
		return "", nil, usageError("%s wants %s", flags.Name(), orOf(names))
	}
	at := slices.Index(names, words[0])
	if at < 0 {
		return "", nil, usageError("%s wants %s%s", flags.Name(), orOf(names), didYouMean(words[0], names))
	}
	for _, name := range slices.Sorted(maps.Keys(given(flags))) {
		if !slices.Contains(acts[at].flags, name) && !slices.Contains(actFlagsOfAll, name) {
			return "", nil, usageError("%s %s: has no flag -%s", flags.Name(), words[0], name)
		}
	}
	return words[0], words[1:], nil
}
