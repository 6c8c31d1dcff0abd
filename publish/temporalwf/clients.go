package temporalwf

import (
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// reconnect has a lost connection made again within a second: a message that comes after an
// outage must not wait for the SDK's ten.
var reconnect = grpc.WithConnectParams(grpc.ConnectParams{
	Backoff: backoff.Config{
		BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second,
	},
	MinConnectTimeout: 5 * time.Second,
})

// clients are those of the namespaces, each made with its first call.
type clients struct {
	options client.Options

	mu     sync.Mutex
	open   map[string]client.Client
	closed bool
	calls  sync.WaitGroup
}

var errClosed = errors.New("the publisher is closed")

// acquire returns the API of a namespace. release must be called after the call.
func (c *clients) acquire(namespace string) (service workflowservice.WorkflowServiceClient, release func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, nil, errClosed
	}
	of := c.open[namespace]
	if of == nil {
		if of, err = c.dial(namespace); err != nil {
			return nil, nil, err
		}
		if c.open == nil {
			c.open = map[string]client.Client{}
		}
		c.open[namespace] = of
	}
	c.calls.Add(1)
	return of.WorkflowService(), c.calls.Done, nil
}

// dial makes a client, which connects with its first call.
func (c *clients) dial(namespace string) (client.Client, error) {
	o := c.options
	o.Namespace = namespace
	if o.Logger == nil {
		o.Logger = sdklog.NewStructuredLogger(slog.New(slog.DiscardHandler))
	}
	// The caller's own options come last, and win.
	o.ConnectionOptions.DialOptions = slices.Concat([]grpc.DialOption{reconnect}, o.ConnectionOptions.DialOptions)
	return client.NewLazyClient(o)
}

func (c *clients) close() {
	c.mu.Lock()
	c.closed = true
	open := c.open
	c.open = nil
	c.mu.Unlock()
	c.calls.Wait()
	for _, of := range open {
		of.Close()
	}
}
