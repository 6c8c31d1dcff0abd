package main

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"
)

func TestSeedAndLengthDecideThePlan(t *testing.T) {
	linesOf := func(seed uint64, length time.Duration) (lines []string) {
		for _, s := range plan(seed, length, kinds) {
			lines = append(lines, fmt.Sprint(s.at, s.kind.name, s.lasts, s.which))
		}
		return lines
	}
	first := linesOf(1, 10*time.Minute)
	if !slices.Equal(first, linesOf(1, 10*time.Minute)) {
		t.Error("one seed, two plans")
	}
	if slices.Equal(first, linesOf(2, 10*time.Minute)) {
		t.Error("two seeds, one plan")
	}
	if short := linesOf(1, time.Minute); len(short) == 0 || !slices.Equal(short, first[:len(short)]) {
		t.Error("a shorter run is not the beginning of a longer one")
	}
}

func TestPlanHasEveryKindAndEndsCalm(t *testing.T) {
	const length = 10 * time.Minute
	seen := map[string]int{}
	for _, s := range plan(3, length, kinds) {
		seen[s.kind.name]++
		if s.at < calm || s.at >= length-calm {
			t.Errorf("%s strikes at %s", s.kind.name, s.at)
		}
		if s.lasts < s.kind.least || s.lasts > s.kind.most {
			t.Errorf("%s lasts %s", s.kind.name, s.lasts)
		}
	}
	for _, k := range kinds {
		if seen[k.name] < 2 {
			t.Errorf("%s strikes %d times in %s", k.name, seen[k.name], length)
		}
	}
}

func TestOptions(t *testing.T) {
	for _, bad := range [][]string{{"-minutes", "0"}, {"-only", "nothing"}, {"-rate", "0"}, {"-rounds", "0"},
		{"-kills", "0"}, {"-seed", "x"}} {
		if _, err := parse(bad, t.Output()); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
	o, err := parse([]string{"-only", "kill-temporal", "-seed", "5"}, t.Output())
	if err != nil || !o.runs("random") || o.runs("isolation") {
		t.Errorf("a kind of fault runs random alone: %+v, %v", o, err)
	}
	o, err = parse([]string{"-only", "callback", "-kills", "100"}, t.Output())
	if err != nil || o.kills != 100 || !o.runs("callback") || o.runs("receivers") {
		t.Errorf("a scenario runs alone: %+v, %v", o, err)
	}
	o, err = parse([]string{"-only", "stream-stops"}, t.Output())
	if err != nil || !o.runs("stream") || o.runs("order") {
		t.Errorf("a part of stream runs stream alone: %+v, %v", o, err)
	}
	if o, err = parse(nil, t.Output()); err != nil || o.seed == 0 || !o.runs("random") || !o.runs("poison") {
		t.Errorf("without options everything runs: %+v, %v", o, err)
	}
}

func TestRatiosOfAllRounds(t *testing.T) {
	m := func(throughput, beside float64, took ...time.Duration) measure {
		return measure{throughput: throughput, beside: beside, took: took}
	}
	r := series{
		without: []measure{m(100, 0, 1, 2, 30), m(50, 0, 3, 4), m(100, 0, 5, 40)}, // 0.04/3 s each
		with:    []measure{m(40, 10, 1, 44), m(100, 0, 2, 3)},                     // 0.03/2 s each
	}.ratios()
	if math.Abs(r.throughput-0.8889) > 0.001 || r.p50 != 0.5 || r.p99 != 1.1 {
		t.Errorf("%+v", r)
	}
	if q := quantile([]time.Duration{1, 2, 3, 4}, 0.5); q != 2 || quantile(nil, 0.5) != 0 {
		t.Errorf("the median of four is the second: %v", q)
	}
}

func TestScaled(t *testing.T) {
	for minutes, want := range map[float64]int{0.001: 1, 1: 20, 10: 200, 60: 200} {
		if got := (&chaos{options: options{minutes: minutes}}).scaled(200); got != want {
			t.Errorf("of 200 in %g minutes: %d, want %d", minutes, got, want)
		}
	}
}
