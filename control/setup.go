// Package control is what operators do beside the deliveries themselves: Desk
// acts on a message and its run together, Examine looks for what is wrong, and
// Setup prepares a Temporal namespace.
//
// The invariants: Desk writes the end of no message that a lease or an open run
// may hold: it asks the run, and its answer is what the row says afterwards. Setup
// alters nothing that is there already, so that it may run at every deployment,
// and in several places at once; and it says that the namespace is ready only
// after a start with the search attributes was accepted.
//
// Setting up a namespace from a program of your own:
//
//	target := control.Target{Address: "localhost:7233", Namespace: "default"}
//	err := control.Setup(ctx, control.NewNamespace(temporalClient, target.Namespace), target, control.DefaultWait, os.Stdout)
package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/temporal"

	"github.com/outflowhq/outflow/workflows"
)

const (
	// DefaultWait is many times what a server takes to look for changed
	// namespaces (system.namespaceCacheRefreshInterval, 2 s in server 1.32).
	DefaultWait = time.Minute

	callTimeout = 10 * time.Second
	firstPause  = 100 * time.Millisecond
	longPause   = 2 * time.Second
)

// attributeNames are the search attributes that a start and a run set, all of
// type Keyword.
func attributeNames() []string {
	var names []string
	for _, key := range []temporal.SearchAttributeKeyKeyword{workflows.AttributeDestination, workflows.AttributeType, workflows.AttributeState} {
		names = append(names, key.GetName())
	}
	return names
}

// Namespace is one Temporal namespace as Setup uses it; NewNamespace makes one.
// Errors are the API's own (package serviceerror).
type Namespace interface {
	// SearchAttributes returns the custom search attributes by name.
	SearchAttributes(ctx context.Context) (map[string]enums.IndexedValueType, error)
	// CreateKeywords creates search attributes of type Keyword. One that exists
	// is left as it is, whatever its type.
	CreateKeywords(ctx context.Context, names []string) error
	// Probe starts a run that sets the named search attributes, and removes it.
	// An error says that they were refused. left, if any, says which run is
	// still there and why.
	Probe(ctx context.Context, names []string) (left string, err error)
}

// Setup creates the search attributes that the namespace lacks and waits until
// a start with them is accepted, at most wait (0 means DefaultWait). It writes
// what it does to out, a line each. Where the caller may not create them, it
// writes the commands for somebody who may, and returns an error.
func Setup(ctx context.Context, ns Namespace, target Target, wait time.Duration, out io.Writer) error {
	if wait <= 0 {
		wait = DefaultWait
	}
	ctx, cancel := context.WithTimeoutCause(ctx, wait, fmt.Errorf("not within %s", wait))
	defer cancel()
	s := setup{ns: ns, target: target, names: attributeNames(), out: out, wait: wait}

	missing, err := s.missing(ctx)
	switch {
	case refused(err):
		return s.tryUnseen(ctx, err)
	case err != nil:
		return err
	case len(missing) == 0:
	case target.Cloud():
		return s.handOver(missing, errors.New("on Temporal Cloud that is done with its own tools"))
	default:
		err := until(ctx, passing, func(ctx context.Context) error { return ns.CreateKeywords(ctx, missing) })
		if refused(err) {
			return s.handOver(missing, err)
		}
		if err != nil {
			return fmt.Errorf("creating %s in namespace %s: %w", strings.Join(missing, ", "), target.Namespace, err)
		}
		for _, name := range missing {
			s.say("%s created", name)
		}
	}
	return s.await(ctx)
}

type setup struct {
	ns     Namespace
	target Target
	names  []string
	out    io.Writer
	wait   time.Duration
}

func (s setup) say(format string, args ...any) { fmt.Fprintf(s.out, format+"\n", args...) }

// missing returns the names that the namespace lacks. One of another type is an
// error: it can't be changed, and starts would be refused for good.
func (s setup) missing(ctx context.Context) ([]string, error) {
	var types map[string]enums.IndexedValueType
	err := until(ctx, passing, func(ctx context.Context) (err error) {
		types, err = s.ns.SearchAttributes(ctx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("looking at the search attributes of namespace %s: %w", s.target.Namespace, err)
	}
	var missing []string
	var wrong []error
	for _, name := range s.names {
		switch has, ok := types[name]; {
		case !ok:
			missing = append(missing, name)
		case has != enums.INDEXED_VALUE_TYPE_KEYWORD:
			wrong = append(wrong, fmt.Errorf("search attribute %s of namespace %s has type %s and wants %s: remove or rename the other one; until then deliveries start without search attributes",
				name, s.target.Namespace, has, enums.INDEXED_VALUE_TYPE_KEYWORD))
		default:
			s.say("%s exists", name)
		}
	}
	return missing, errors.Join(wrong...)
}

// tryUnseen is for who may not look: whether a start is accepted still tells.
func (s setup) tryUnseen(ctx context.Context, cause error) error {
	left, err := s.ns.Probe(ctx, s.names)
	if err != nil {
		return s.handOver(s.names, cause)
	}
	s.ready(left, "")
	return nil
}

// handOver writes the commands for somebody who may create search attributes.
func (s setup) handOver(names []string, cause error) error {
	for _, line := range s.target.Commands(names) {
		s.say("%s", line)
	}
	return fmt.Errorf("%s can't be created from here: %w\nLet somebody who may run the commands above, then run this again", strings.Join(names, ", "), cause)
}

// await waits until a start is accepted: every part of a server keeps its own
// memory of the namespace, and learns the attributes only after some seconds.
func (s setup) await(ctx context.Context) error {
	began := time.Now()
	waiting := false
	var left string
	err := until(ctx, func(err error) bool { return left == "" && !refused(err) }, func(ctx context.Context) (err error) {
		left, err = s.ns.Probe(ctx, s.names)
		if err != nil && !waiting {
			waiting = true
			s.say("waiting until Temporal accepts a start with them, up to %s", s.wait)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("starting a run with the search attributes in namespace %s: %w%s", s.target.Namespace, err, leftOver(left))
	}
	took := ""
	if waiting {
		took = fmt.Sprintf(" (after %s)", time.Since(began).Round(100*time.Millisecond))
	}
	s.ready(left, took)
	return nil
}

func (s setup) ready(left, took string) {
	s.say("namespace %s is ready: it accepts starts with them%s%s", s.target.Namespace, took, leftOver(left))
}

func leftOver(left string) string {
	if left == "" {
		return ""
	}
	return "; the probe is still there: " + left
}

// refused reports whether the caller lacks the right, or the service the call.
func refused(err error) bool {
	var denied *serviceerror.PermissionDenied
	var unknown *serviceerror.Unimplemented
	return errors.As(err, &denied) || errors.As(err, &unknown)
}

// passing reports whether a later call may well succeed.
func passing(err error) bool {
	var unavailable *serviceerror.Unavailable
	var exhausted *serviceerror.ResourceExhausted
	var late *serviceerror.DeadlineExceeded
	return errors.As(err, &unavailable) || errors.As(err, &exhausted) || errors.As(err, &late) || errors.Is(err, context.DeadlineExceeded)
}

// until repeats do while its error is worth a retry and ctx lasts.
func until(ctx context.Context, retry func(error) bool, do func(context.Context) error) error {
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		err := do(call)
		cancel()
		if err == nil || ctx.Err() == nil && !retry(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; the last answer: %w", context.Cause(ctx), err)
		case <-time.After(pause):
		}
	}
}
