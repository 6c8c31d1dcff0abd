package temporalwf_test

import (
	"fmt"

	"go.temporal.io/sdk/client"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/temporalwf"
)

// A publisher connects with its first message. What is not listed is not sent: a scanner asks
// before it starts a run, and the message waits as a row.
func ExampleNew() {
	targets, err := temporalwf.ParseTargets("default/orders/ProcessOrder, default/carts/Cart")
	if err != nil {
		fmt.Println(err)
		return
	}
	publisher := temporalwf.New(temporalwf.Options{
		Client:  client.Options{HostPort: "temporal.example.com:7233"},
		Targets: targets,
	})
	defer publisher.Close()
	router := publish.NewRouter(publisher)
	fmt.Println(router.Refusal("temporal://orders/ProcessOrder"))
	fmt.Println(router.Refusal("temporal://carts/Cart?signal=add-item"))
	fmt.Println(outflow.ClassOf(router.Refusal("temporal://payments/Refund")))
	// Output:
	// <nil>
	// <nil>
	// unavailable
}
