package publishtest_test

import (
	"testing"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish/publishtest"
)

func TestTheExamplePasses(t *testing.T) {
	publishtest.Run(t, &broker{topics: map[string][]outflow.Message{}, faults: map[string]publishtest.Fault{}})
}
