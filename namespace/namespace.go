// Package namespace is what Outflow needs of a Temporal namespace beside its workflows: the search
// attributes, the schedule that maintains the outbox table, and looks at workers and open runs.
//
// The invariant: Setup and the schedule alter nothing that is as they want it, so they may run at
// every deployment and in several processes at once. Setup says that the namespace is ready only
// after Temporal accepted a start with the search attributes.
//
// To set up a namespace from a program of your own:
//
//	target := namespace.Target{Address: "localhost:7233", Namespace: "default"}
//	ns := namespace.New(temporalClient, target.Namespace)
//	err := ns.Setup(ctx, target, namespace.DefaultWait, os.Stdout)
package namespace

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/outflowhq/outflow/workflows"
)

const (
	callTimeout = 10 * time.Second
	firstPause  = 100 * time.Millisecond
	maxPause    = 2 * time.Second
)

// Namespace is one Temporal namespace. Its methods return the API's own errors (package
// serviceerror), except where they say otherwise. It is safe for concurrent use; the client stays
// the caller's.
type Namespace struct {
	client client.Client
	name   string
}

// New returns a namespace as the client sees it. The client may be connected to another namespace,
// except for Pollers, OtherTaskQueues and Stalled.
func New(c client.Client, name string) *Namespace { return &Namespace{client: c, name: name} }

// AttributeNames returns the search attributes that a start and a run set, all of type Keyword.
func AttributeNames() []string {
	var names []string
	for _, key := range []temporal.SearchAttributeKeyKeyword{
		workflows.AttributeDestination, workflows.AttributeType, workflows.AttributeState,
	} {
		names = append(names, key.GetName())
	}
	return names
}

// SearchAttributes returns the custom search attributes by name. It first asks for the namespace:
// Temporal answers "unavailable" where somebody lists the attributes of an unknown one.
func (n *Namespace) SearchAttributes(ctx context.Context) (map[string]enums.IndexedValueType, error) {
	request := &workflowservice.DescribeNamespaceRequest{Namespace: n.name}
	if _, err := n.client.WorkflowService().DescribeNamespace(ctx, request); err != nil {
		return nil, err
	}
	list, err := n.client.OperatorService().ListSearchAttributes(ctx,
		&operatorservice.ListSearchAttributesRequest{Namespace: n.name})
	return list.GetCustomAttributes(), err
}

// CreateKeywords creates search attributes of type Keyword. It leaves an attribute that exists as
// it is, whatever its type.
func (n *Namespace) CreateKeywords(ctx context.Context, names []string) error {
	types := map[string]enums.IndexedValueType{}
	for _, name := range names {
		types[name] = enums.INDEXED_VALUE_TYPE_KEYWORD
	}
	_, err := n.client.OperatorService().AddSearchAttributes(ctx,
		&operatorservice.AddSearchAttributesRequest{Namespace: n.name, SearchAttributes: types})
	var exists *serviceerror.AlreadyExists
	if errors.As(err, &exists) {
		return nil // another setup was faster
	}
	return err
}

// IsRefused reports whether the caller lacks the right to a call, or the server the call itself.
func IsRefused(err error) bool {
	var denied *serviceerror.PermissionDenied
	var unknown *serviceerror.Unimplemented
	return errors.As(err, &denied) || errors.As(err, &unknown)
}

// isTransient reports whether a later call may well succeed.
func isTransient(err error) bool {
	var unavailable *serviceerror.Unavailable
	var exhausted *serviceerror.ResourceExhausted
	var late *serviceerror.DeadlineExceeded
	return errors.As(err, &unavailable) || errors.As(err, &exhausted) || errors.As(err, &late) ||
		errors.Is(err, context.DeadlineExceeded)
}

// retry repeats a call while its error is worth a retry and ctx lasts.
func retry(ctx context.Context, worthIt func(error) bool, call func(context.Context) error) error {
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		inTime, cancel := context.WithTimeout(ctx, callTimeout)
		err := call(inTime)
		cancel()
		if err == nil || ctx.Err() == nil && !worthIt(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; the last answer: %w", context.Cause(ctx), err)
		case <-time.After(pause):
		}
	}
}
