package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// Thousands of known destinations, which may have 2,000 bytes each, cost nothing where
// none can be near.
func TestNearestOfManyLongOnes(t *testing.T) {
	known := []string{"sqs://Orders", "sqs://ordres", "sqs://orders-eu-west-1"}
	for n := range 1000 {
		known = append(known, fmt.Sprintf("https://shop.example/%d/%s", n, strings.Repeat("x", 1000)))
	}
	assert.Equal(t, []string{"sqs://Orders", "sqs://ordres", "sqs://orders-eu-west-1"}, nearest("sqs://orders", known))
	assert.Less(t, testing.AllocsPerRun(1, func() { nearest("sqs://orders", known) }), 500.0)
}
