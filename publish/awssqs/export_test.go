package awssqs

import (
	"maps"
	"slices"

	"github.com/outflowhq/outflow"
)

// PermanentCodes are SQS's codes after which a message is given up; missing is
// true for those that say that the queue does not exist.
func PermanentCodes(missing bool) (codes []string) {
	for _, code := range slices.Sorted(maps.Keys(verdicts)) {
		if v := verdicts[code]; v.class == outflow.ClassPermanent && v.gone == missing {
			codes = append(codes, code)
		}
	}
	return codes
}
