package awsbatch

import (
	"fmt"
	"strings"

	"github.com/outflowhq/outflow"
)

// NoRegion is why nothing is sent to a destination whose region neither it nor the client names.
func NoRegion(d outflow.Destination) error {
	return outflow.Unavailable(fmt.Errorf("%s: no AWS region is configured, and the destination names none "+
		"(set AWS_REGION, or redirect the message to %s): nothing was sent", sendingTo(d), With(d, "region")))
}

// With is a destination with one parameter more, as texts show it.
func With(d outflow.Destination, parameter string) string {
	separator := "?"
	if strings.Contains(d.String(), "?") {
		separator = "&"
	}
	return d.String() + separator + parameter + "=…"
}
