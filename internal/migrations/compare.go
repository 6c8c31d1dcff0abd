package migrations

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// completeVersion returns the version up to which the schema is complete. Objects that no
// migration creates are ignored: they are the user's own.
func (s Set) completeVersion(present catalog, steps []catalog, recorded int) (int, error) {
	all := steps[len(steps)-1]
	ours := maps.Clone(present)
	maps.DeleteFunc(ours, func(object, _ string) bool { _, created := all[object]; return !created })
	for version := len(steps); version > 0; version-- {
		if maps.Equal(ours, steps[version-1]) {
			return version, nil
		}
	}
	var parts []string
	for i, name := range s.names()[recorded:] {
		if part := describePart(name, ours, createdBy(steps, recorded+i), all); part != "" {
			parts = append(parts, part)
		}
	}
	if len(parts) == 0 {
		return recorded, nil // nothing of the missing migrations is there
	}
	return 0, fmt.Errorf("schema %s has a part of migrations that are not recorded: %s: "+
		"complete it with the tool that began it, or drop what is there, then try again",
		s.Schema, strings.Join(parts, "; "))
}

// createdBy is what one migration creates.
func createdBy(steps []catalog, i int) catalog {
	created := maps.Clone(steps[i])
	if i > 0 {
		maps.DeleteFunc(created, func(object, _ string) bool { _, before := steps[i-1][object]; return before })
	}
	return created
}

// describePart says how much of a migration is there, or "" where nothing is.
func describePart(name string, ours, created, all catalog) string {
	var present, missing, different []string
	for _, object := range slices.Sorted(maps.Keys(created)) {
		switch definition, found := ours[object]; {
		case !found:
			missing = append(missing, object)
		case definition != all[object] && definition != created[object]:
			different = append(different, object)
		default:
			present = append(present, object)
		}
	}
	switch {
	case len(present)+len(different) == 0:
		return ""
	case len(missing)+len(different) == 0:
		return name + " is complete"
	}
	text := name + " has " + firstOf(present)
	if len(missing) > 0 {
		text += ", lacks " + firstOf(missing)
	}
	if len(different) > 0 {
		text += ", and differs in " + firstOf(different) + " (definition, or rights of PUBLIC)"
	}
	return text
}

// firstOf names the first of the objects, and counts the others.
func firstOf(objects []string) string {
	const named = 3
	switch {
	case len(objects) == 0:
		return "nothing as it should be"
	case len(objects) <= named+1:
		return strings.Join(objects, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(objects[:named], ", "), len(objects)-named)
}
