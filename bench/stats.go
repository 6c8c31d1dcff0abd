package main

import (
	"math"
	"slices"
	"time"
)

// percentile is the smallest value that at least p per cent of all are not above: the nearest-rank
// method.
func percentile[T ~int64 | ~float64](values []T, p float64) T {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// median is the middle value, or the mean of the two.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// ratios divides round by round, so that what slowed a whole round down slows both.
func ratios(over, under []float64) []float64 {
	var r []float64
	for i := range min(len(over), len(under)) {
		if under[i] > 0 {
			r = append(r, over[i]/under[i])
		}
	}
	return r
}

// differences subtracts round by round.
func differences(from, less []float64) []float64 {
	var d []float64
	for i := range min(len(from), len(less)) {
		d = append(d, from[i]-less[i])
	}
	return d
}

// perThousand is how many seconds of CPU a thousand messages took.
func perThousand(d time.Duration, messages int) float64 {
	return d.Seconds() / float64(messages) * 1000
}
