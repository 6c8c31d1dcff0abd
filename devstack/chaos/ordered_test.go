package main

import (
	"maps"
	"testing"

	"github.com/google/uuid"
)

func TestOutOfOrder(t *testing.T) {
	byID, ids := map[uuid.UUID]placeInOrder{}, []uuid.UUID{}
	for seq, key := range []string{"a", "b", "a", "b", "a"} {
		id := uuid.New()
		ids = append(ids, id)
		byID[id] = placeInOrder{ID: id, Seq: int64(seq), Key: key}
	}
	of := func(places ...int) (arrived []uuid.UUID) {
		for _, p := range places {
			arrived = append(arrived, ids[p])
		}
		return arrived
	}
	for _, c := range []struct {
		name    string
		arrived []uuid.UUID
		wrong   int
		keys    map[string]int
	}{
		{"in order, the keys among each other", of(1, 0, 2, 3, 4), 0, map[string]int{"a": 3, "b": 2}},
		{"a second copy, late", of(0, 2, 0, 4), 0, map[string]int{"a": 3}},
		{"one that was redirected", append([]uuid.UUID{uuid.New()}, of(0, 2)...), 0, map[string]int{"a": 2}},
		{"the first one last", of(2, 4, 0), 1, map[string]int{"a": 3}},
		{"the last one first", of(4, 0, 2), 2, map[string]int{"a": 3}},
	} {
		wrong, keys := outOfOrder(byID, c.arrived)
		if len(wrong) != c.wrong || !maps.Equal(keys, c.keys) {
			t.Errorf("%s: %q are wrong, of %v", c.name, wrong, keys)
		}
	}
}
