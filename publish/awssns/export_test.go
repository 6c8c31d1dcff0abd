package awssns

import (
	"maps"
	"slices"

	"github.com/outflowhq/outflow/publish/internal/aws"
)

// CodesOf are SNS's error codes of a kind.
func CodesOf(kind aws.Kind) (codes []string) {
	for _, code := range slices.Sorted(maps.Keys(service.Codes)) {
		if service.Codes[code] == kind {
			codes = append(codes, code)
		}
	}
	return codes
}
