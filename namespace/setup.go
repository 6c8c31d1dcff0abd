package namespace

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"go.temporal.io/api/enums/v1"
)

// DefaultWait is many times the 2 s after which a server refreshes its cache of namespaces
// (system.namespaceCacheRefreshInterval, server 1.32).
const DefaultWait = time.Minute

// attributes is a Namespace as Setup uses it. The tests script one.
type attributes interface {
	SearchAttributes(ctx context.Context) (map[string]enums.IndexedValueType, error)
	CreateKeywords(ctx context.Context, names []string) error
	Probe(ctx context.Context, names []string) (left string, err error)
}

var _ attributes = (*Namespace)(nil)

// Setup creates the search attributes that the namespace lacks and waits until Temporal accepts a
// start with them, at most wait (0 means DefaultWait). It writes a line to out for each step. Where
// the caller may not create the attributes, it writes the commands for somebody who may, and
// returns an error.
func (n *Namespace) Setup(ctx context.Context, target Target, wait time.Duration, out io.Writer) error {
	return setUp(ctx, n, target, wait, out)
}

func setUp(ctx context.Context, ns attributes, target Target, wait time.Duration, out io.Writer) error {
	if wait <= 0 {
		wait = DefaultWait
	}
	ctx, cancel := context.WithTimeoutCause(ctx, wait, fmt.Errorf("not within %s", wait))
	defer cancel()
	s := setup{ns: ns, target: target, names: AttributeNames(), out: out, wait: wait}

	missing, err := s.missing(ctx)
	switch {
	case IsRefused(err):
		return s.tryStart(ctx, err)
	case err != nil:
		return err
	case len(missing) == 0:
	case target.Cloud():
		return s.handOver(missing, errors.New("on Temporal Cloud that is done with its own tools"))
	default:
		err := retry(ctx, isTransient, func(ctx context.Context) error { return ns.CreateKeywords(ctx, missing) })
		if IsRefused(err) {
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
	ns     attributes
	target Target
	names  []string
	out    io.Writer
	wait   time.Duration
}

func (s setup) say(format string, args ...any) { fmt.Fprintf(s.out, format+"\n", args...) }

// missing returns the names that the namespace lacks. An attribute of another type is an error: its
// type can't be changed, and Temporal would refuse every start that sets it.
func (s setup) missing(ctx context.Context) ([]string, error) {
	var types map[string]enums.IndexedValueType
	err := retry(ctx, isTransient, func(ctx context.Context) (err error) {
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
			wrong = append(wrong, fmt.Errorf("search attribute %s of namespace %s has type %s and wants %s: "+
				"remove or rename it; until then deliveries start without search attributes",
				name, s.target.Namespace, has, enums.INDEXED_VALUE_TYPE_KEYWORD))
		default:
			s.say("%s exists", name)
		}
	}
	return missing, errors.Join(wrong...)
}

// tryStart is for a caller who may not list the attributes: a start that Temporal accepts shows
// that they are there.
func (s setup) tryStart(ctx context.Context, cause error) error {
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
	return fmt.Errorf("%s can't be created from here: %w\n"+
		"Let somebody who may run the commands above, then run this again", strings.Join(names, ", "), cause)
}

// await waits until Temporal accepts a start. Each service of a server caches the namespace by
// itself, and sees new attributes some seconds later.
func (s setup) await(ctx context.Context) error {
	began := time.Now()
	waiting := false
	var left string
	worthIt := func(err error) bool { return left == "" && !IsRefused(err) }
	err := retry(ctx, worthIt, func(ctx context.Context) (err error) {
		left, err = s.ns.Probe(ctx, s.names)
		if err != nil && !waiting {
			waiting = true
			s.say("waiting until Temporal accepts a start with them, up to %s", s.wait)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("starting a run with the search attributes in namespace %s: %w%s",
			s.target.Namespace, err, leftOver(left))
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
