package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPercentile(t *testing.T) {
	hundred := make([]float64, 0, 100)
	for i := range 100 {
		hundred = append(hundred, float64(100-i))
	}
	for _, c := range []struct {
		name   string
		values []float64
		p      float64
		want   float64
	}{
		{"none", nil, 50, 0},
		{"one", []float64{7}, 99, 7},
		{"the lower middle", []float64{4, 1, 3, 2}, 50, 2},
		{"of a hundred, unsorted", hundred, 95, 95},
		{"the last", hundred, 100, 100},
		{"the first", hundred, 0, 1},
		{"of three, the last", []float64{3, 1, 2}, 99, 3},
	} {
		t.Run(c.name, func(t *testing.T) { require.Equal(t, c.want, percentile(c.values, c.p)) })
	}
	durations := []time.Duration{3, 1, 2}
	require.Equal(t, time.Duration(2), percentile(durations, 50))
	require.Equal(t, []time.Duration{3, 1, 2}, durations, "the values stay in their order")
}

func TestMedian(t *testing.T) {
	require.Zero(t, median(nil))
	require.Equal(t, 2.0, median([]float64{3, 1, 2}))
	require.Equal(t, 2.5, median([]float64{4, 1, 3, 2}))
}

func TestRatiosGoRoundByRound(t *testing.T) {
	require.Equal(t, []float64{2, 0.5}, ratios([]float64{10, 10}, []float64{5, 20}))
	require.Equal(t, []float64{2}, ratios([]float64{10, 10}, []float64{5}), "a round without a partner is left out")
	require.Empty(t, ratios([]float64{1}, []float64{0}))
	require.Empty(t, ratios(nil, []float64{1}))
}

func TestPerThousand(t *testing.T) {
	require.InDelta(t, 5.0, perThousand(2500*time.Millisecond, 500), 1e-9)
}
