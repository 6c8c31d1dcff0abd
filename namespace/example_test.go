package namespace_test

import (
	"context"
	"fmt"
	"os"

	"go.temporal.io/sdk/client"

	"github.com/outflowhq/outflow/namespace"
)

// Setup may run at every deployment.
func ExampleNamespace_Setup() {
	setUp := func(ctx context.Context, c client.Client) error {
		target := namespace.Target{Address: "localhost:7233", Namespace: "shop"}
		return namespace.New(c, target.Namespace).Setup(ctx, target, namespace.DefaultWait, os.Stdout)
	}
	_ = setUp
}

// Where a program may not create search attributes, it can print what to run.
func ExampleTarget_Commands() {
	target := namespace.Target{Address: "localhost:7233", Namespace: "shop"}
	for _, command := range target.Commands([]string{"OutflowType"}) {
		fmt.Println(command)
	}
	// Output:
	// temporal operator search-attribute create --address localhost:7233 --namespace shop --name OutflowType --type Keyword
}
