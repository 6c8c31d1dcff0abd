package main

import (
	"math/rand/v2"
	"time"
)

// strike is one planned fault.
type strike struct {
	at    time.Duration // since the start of the load
	kind  kind
	lasts time.Duration // until it is healed, or the killed part is started again
	which int           // of several: the program, the queue
}

const (
	calm     = 5 * time.Second // before the first strike, and after the last
	leastGap = 2 * time.Second
	mostGap  = 9 * time.Second
)

// plan draws the strikes of a run. The same seed and length give the same plan.
func plan(seed uint64, length time.Duration, kinds []kind) []strike {
	chance := rand.New(rand.NewPCG(seed, 0))
	between := func(least, most time.Duration) time.Duration {
		return least + time.Duration(chance.Int64N(int64(most-least)+1))
	}
	var strikes []strike
	var bag []kind // every kind comes once before any comes again
	for at := calm; at < length-calm; at += between(leastGap, mostGap) {
		if len(bag) == 0 {
			bag = append(bag, kinds...)
			chance.Shuffle(len(bag), func(i, j int) { bag[i], bag[j] = bag[j], bag[i] })
		}
		k := bag[0]
		bag = bag[1:]
		strikes = append(strikes, strike{at: at, kind: k, lasts: between(k.least, k.most), which: chance.IntN(1 << 16)})
	}
	return strikes
}
