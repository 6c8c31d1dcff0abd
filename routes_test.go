package outflow_test

import (
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"

	"github.com/outflowhq/outflow"
)

// The first is the RFC's own example of a name-based UUIDv8, with the namespace of DNS.
// https://www.rfc-editor.org/rfc/rfc9562#name-example-of-a-uuidv8-value-n
func TestRoutedID(t *testing.T) {
	id := outflow.RoutedID(uuid.NameSpaceDNS, "www.example.com")
	assert.Equal(t, "5c146b14-3c52-8afd-938a-375d0df1fbf6", id.String())
	assert.EqualValues(t, 8, id.Version())
	assert.Equal(t, uuid.RFC4122, id.Variant())
	group := uuid.MustParse("018f6a3e-7c1b-7d5e-9b1a-2f6f0c9d4e11")
	assert.Equal(t, outflow.RoutedID(group, "sqs://orders"), outflow.RoutedID(group, "sqs://orders"))
	assert.NotEqual(t, outflow.RoutedID(group, "sqs://orders"), outflow.RoutedID(group, "sqs://audit"))
	assert.NotEqual(t, outflow.RoutedID(group, "sqs://orders"),
		outflow.RoutedID(outflow.RoutedID(group, "x"), "sqs://orders"))
}
