package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/operator"
)

// nearest returns the known words that a mistyped word may mean, the likeliest first, at most
// three.
func nearest(word string, known []string) []string {
	maxDistance := min(max(len(word)/3, 1), 3)
	distances := map[string]int{}
	for _, k := range known {
		longer := utf8.RuneCountInString(k) - utf8.RuneCountInString(word)
		d := max(longer, -longer) // at least; the exact distance of many long destinations takes time
		if d <= maxDistance {
			d = distance(strings.ToLower(word), strings.ToLower(k))
		}
		if d > maxDistance && len(word) >= 3 && strings.HasPrefix(k, word) {
			d = maxDistance // it was cut short
		}
		if d <= maxDistance && k != word {
			distances[k] = d
		}
	}
	near := make([]string, 0, len(distances))
	for k := range distances {
		near = append(near, k)
	}
	slices.SortFunc(near, func(a, b string) int { return cmp.Or(distances[a]-distances[b], strings.Compare(a, b)) })
	return near[:min(len(near), 3)]
}

// distance counts the letters to add, drop, change or swap with the next to make b of a (the
// optimal string alignment).
func distance(a, b string) int {
	x, y := []rune(a), []rune(b)
	rows := make([][]int, len(x)+1)
	for i := range rows {
		rows[i] = make([]int, len(y)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(x); i++ {
		for j := 1; j <= len(y); j++ {
			change := 1
			if x[i-1] == y[j-1] {
				change = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+change)
			if i > 1 && j > 1 && x[i-1] == y[j-2] && x[i-2] == y[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(x)][len(y)]
}

// didYouMean asks about the words near a word. It is empty where there is none.
func didYouMean(word string, known []string) string {
	near := nearest(word, known)
	if len(near) == 0 {
		return ""
	}
	return ": did you mean " + orOf(near) + "?"
}

// orOf lists words, the last after an or.
func orOf(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

// unknownDestination says that no message is known to have a destination. It is empty where one is. It
// shows no query of an address.
func unknownDestination(
	ctx context.Context, from interface {
		KnownDestinations(ctx context.Context, destination string) ([]string, error)
	}, destination string,
) (string, error) {
	known, err := from.KnownDestinations(ctx, destination)
	if err != nil || slices.Contains(known, destination) {
		return "", err
	}
	for i := range known {
		known[i] = outflow.DisplayDestination(known[i])
	}
	shown := outflow.DisplayDestination(destination)
	hint := didYouMean(shown, known)
	if slices.Contains(known, shown) {
		hint = ": messages there have another query, or none; outflow list -json shows it"
	}
	return fmt.Sprintf("no message to %s is known here%s", shown, hint), nil
}

// hintUnknown says that a filter which found nothing names a destination or type that no message is
// known to have. It is a hint: where the look-up fails, the answer stands without it.
func hintUnknown(ctx context.Context, from lister, f operator.ListFilter, errs io.Writer) {
	if f.Destination != "" {
		if hint, err := unknownDestination(ctx, from, f.Destination); err == nil && hint != "" {
			fmt.Fprintln(errs, hint)
		}
	}
	if f.Type != "" {
		known, err := from.KnownTypes(ctx)
		if err == nil && !slices.Contains(known, f.Type) {
			fmt.Fprintf(errs, "none of the newest messages is of type %s%s\n", f.Type, didYouMean(f.Type, known))
		}
	}
}
