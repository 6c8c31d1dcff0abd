package namespace

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
)

var _ attributes = (*fake)(nil)

// fake is a namespace by a script: each call takes its next answer, the last
// one forever.
type fake struct {
	types   map[string]enums.IndexedValueType
	look    []error
	create  []error
	probe   []error
	left    string
	created []string
	probes  int
}

func next(script *[]error) error {
	if len(*script) == 0 {
		return nil
	}
	err := (*script)[0]
	if len(*script) > 1 {
		*script = (*script)[1:]
	}
	return err
}

func (f *fake) SearchAttributes(context.Context) (map[string]enums.IndexedValueType, error) {
	return f.types, next(&f.look)
}

func (f *fake) CreateKeywords(_ context.Context, names []string) error {
	err := next(&f.create)
	if err == nil {
		f.created = names
	}
	return err
}

func (f *fake) Probe(context.Context, []string) (string, error) {
	f.probes++
	return f.left, next(&f.probe)
}

var (
	local = Target{Address: "temporal.internal:7233", Namespace: "shop"}
	cloud = Target{Address: "shop.a1b2c.tmprl.cloud:7233", Namespace: "shop.a1b2c"}

	denied      = serviceerror.NewPermissionDenied("Request unauthorized.", "")
	unavailable = serviceerror.NewUnavailable("try later")
	unlearnt    = serviceerror.NewInvalidArgument("Namespace shop has no mapping defined for search attribute OutflowType")
)

func having(names ...string) map[string]enums.IndexedValueType {
	types := map[string]enums.IndexedValueType{"Theirs": enums.INDEXED_VALUE_TYPE_INT}
	for _, name := range names {
		types[name] = enums.INDEXED_VALUE_TYPE_KEYWORD
	}
	return types
}

const localCommands = `temporal operator search-attribute create --address temporal.internal:7233 --namespace shop --name OutflowDestination --type Keyword
temporal operator search-attribute create --address temporal.internal:7233 --namespace shop --name OutflowType --type Keyword
temporal operator search-attribute create --address temporal.internal:7233 --namespace shop --name OutflowState --type Keyword
`

const cloudCommands = `# with the temporal command and its cloud extension, as an administrator of the namespace:
temporal cloud namespace search-attribute create --namespace shop.a1b2c --name OutflowDestination --type Keyword --idempotent
temporal cloud namespace search-attribute create --namespace shop.a1b2c --name OutflowType --type Keyword --idempotent
temporal cloud namespace search-attribute create --namespace shop.a1b2c --name OutflowState --type Keyword --idempotent
# or with tcld:
tcld namespace search-attributes add --namespace shop.a1b2c --search-attribute OutflowDestination=Keyword --search-attribute OutflowType=Keyword --search-attribute OutflowState=Keyword
`

func TestSetup(t *testing.T) {
	for name, c := range map[string]struct {
		ns      fake
		target  Target
		created []string
		probes  int
		out     string
		fails   string // part of the error's text; empty: none
	}{
		"creates all": {
			ns: fake{types: having()}, target: local, created: AttributeNames(), probes: 1,
			out: "OutflowDestination created\nOutflowType created\nOutflowState created\nnamespace shop is ready: it accepts starts with them\n",
		},
		"creates what is missing": {
			ns: fake{types: having("OutflowType")}, target: local, created: []string{"OutflowDestination",
				"OutflowState"}, probes: 1,
			out: "OutflowType exists\nOutflowDestination created\nOutflowState created\nnamespace shop is ready: it accepts starts with them\n",
		},
		"creates nothing twice": {
			ns: fake{types: having(AttributeNames()...)}, target: local, probes: 1,
			out: "OutflowDestination exists\nOutflowType exists\nOutflowState exists\nnamespace shop is ready: it accepts starts with them\n",
		},
		"waits until a start is accepted": {
			ns: fake{types: having(AttributeNames()...),
				probe: []error{unlearnt, unlearnt, nil}}, target: local, probes: 3,
			out: "OutflowDestination exists\nOutflowType exists\nOutflowState exists\n" +
				"waiting until Temporal accepts a start with them, up to 1m0s\nnamespace shop is ready: it accepts starts with them (after 300ms)\n",
		},
		"gives up waiting": {
			ns: fake{types: having(AttributeNames()...), probe: []error{unlearnt}}, target: local, probes: 34,
			out: "OutflowDestination exists\nOutflowType exists\nOutflowState exists\n" +
				"waiting until Temporal accepts a start with them, up to 1m0s\n",
			fails: "starting a run with the search attributes in namespace shop: not within 1m0s; the last answer: Namespace shop has no mapping",
		},
		"may not start": {
			ns: fake{types: having(AttributeNames()...), probe: []error{denied}}, target: local, probes: 1,
			out: "OutflowDestination exists\nOutflowType exists\nOutflowState exists\n" +
				"waiting until Temporal accepts a start with them, up to 1m0s\n",
			fails: "in namespace shop: Request unauthorized.",
		},
		"reports a probe that it could not remove, and starts no other": {
			ns: fake{types: having(AttributeNames()...), left: "workflow p",
				probe: []error{unlearnt}}, target: local, probes: 1,
			out: "OutflowDestination exists\nOutflowType exists\nOutflowState exists\n" +
				"waiting until Temporal accepts a start with them, up to 1m0s\n",
			fails: "; the probe is still there: workflow p",
		},
		"is ready all the same": {
			ns: fake{types: having(AttributeNames()...), left: "workflow p"}, target: local, probes: 1,
			out: "OutflowDestination exists\nOutflowType exists\nOutflowState exists\n" +
				"namespace shop is ready: it accepts starts with them; the probe is still there: workflow p\n",
		},
		"asks again what fails in passing": {
			ns: fake{types: having(), look: []error{unavailable, nil},
				create: []error{unavailable, nil}}, target: local, created: AttributeNames(), probes: 1,
			out: "OutflowDestination created\nOutflowType created\nOutflowState created\nnamespace shop is ready: it accepts starts with them\n",
		},
		"another type": {
			ns: fake{types: map[string]enums.IndexedValueType{
				"OutflowDestination": enums.INDEXED_VALUE_TYPE_TEXT, "OutflowType": enums.INDEXED_VALUE_TYPE_KEYWORD, "OutflowState": enums.INDEXED_VALUE_TYPE_INT,
			}}, target: local,
			out:   "OutflowType exists\n",
			fails: "search attribute OutflowDestination of namespace shop has type Text and wants Keyword|search attribute OutflowState of namespace shop has type Int and wants Keyword",
		},
		"no such namespace": {
			ns: fake{look: []error{serviceerror.NewNamespaceNotFound("shop")}}, target: local,
			fails: "looking at the search attributes of namespace shop: Namespace shop is not found.",
		},
		"too many": {
			ns: fake{types: having(), create: []error{serviceerror.NewInvalidArgument("cannot have more than 10 search attributes of type Keyword")}}, target: local,
			fails: "creating OutflowDestination, OutflowType, OutflowState in namespace shop: cannot have more than 10",
		},
		"may not create": {
			ns: fake{types: having(), create: []error{denied}}, target: local,
			out: localCommands, fails: "can't be created from here: Request unauthorized.",
		},
		"may not create the one that is missing": {
			ns: fake{types: having("OutflowDestination", "OutflowType"), create: []error{denied}}, target: local,
			out:   "OutflowDestination exists\nOutflowType exists\n" + strings.SplitAfter(localCommands, "\n")[2],
			fails: "OutflowState can't be created from here",
		},
		"may not look, and all is there": {
			ns: fake{look: []error{denied}}, target: local, probes: 1,
			out: "namespace shop is ready: it accepts starts with them\n",
		},
		"may not look, and they are missing": {
			ns: fake{look: []error{denied}, probe: []error{unlearnt}}, target: local, probes: 1,
			out: localCommands, fails: "Request unauthorized.",
		},
		"Temporal Cloud, missing": {
			ns: fake{types: having()}, target: cloud,
			out: cloudCommands, fails: "on Temporal Cloud that is done with its own tools",
		},
		"Temporal Cloud, there": {
			ns: fake{types: having(AttributeNames()...)}, target: cloud, probes: 1,
			out: "OutflowDestination exists\nOutflowType exists\nOutflowState exists\nnamespace shop.a1b2c is ready: it accepts starts with them\n",
		},
		"Temporal Cloud without the operator's calls": {
			ns: fake{look: []error{serviceerror.NewUnimplemented("unknown service")},
				probe: []error{unlearnt}}, target: cloud, probes: 1,
			out: cloudCommands, fails: "unknown service",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				err := setUp(t.Context(), &c.ns, c.target, 0, &out)
				assert.Equal(t, c.out, out.String())
				if c.fails == "" {
					require.NoError(t, err)
				} else {
					for part := range strings.SplitSeq(c.fails, "|") {
						assert.ErrorContains(t, err, part)
					}
				}
				assert.Equal(t, c.created, c.ns.created)
				assert.Equal(t, c.probes, c.ns.probes)
			})
		})
	}
}

func TestSetupStopsWhenAskedTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stop := errors.New("interrupt")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(5*time.Second, func() { cancel(stop) })
		began := time.Now()
		err := setUp(ctx, &fake{types: having(AttributeNames()...), probe: []error{unlearnt}}, local, 0,
			&bytes.Buffer{})
		require.ErrorIs(t, err, stop)
		assert.Equal(t, 5*time.Second, time.Since(began))
	})
}

func TestCloud(t *testing.T) {
	for address, want := range map[string]bool{
		"shop.a1b2c.tmprl.cloud:7233":             true,
		"eu-west-1.aws.api.temporal.io:7233":      true,
		"EU-WEST-1.AWS.API.TEMPORAL.IO:7233":      true,
		"localhost:7233":                          false,
		"tmprl.cloud.example.com:7233":            false,
		"temporal-frontend.temporal.svc:7233":     false,
		"temporal-frontend.temporal.svc":          false,
		"dns:///shop.a1b2c.tmprl.cloud:7233":      true,
		"dns:///temporal.internal:7233":           false,
		"[::1]:7233":                              false,
		"shop.a1b2c.tmprl.cloud":                  true,
		"not-tmprl.cloud:7233":                    false,
		"passthrough:///x.api.temporal.io.:7233":  true,
		"multi:///10.0.0.1:7233,10.0.0.2:7233":    false,
		"shop.a1b2c.tmprl.cloud.example.com:7233": false,
	} {
		assert.Equal(t, want, Target{Address: address}.Cloud(), address)
	}
}

func TestCommandsAreWordsOfAShell(t *testing.T) {
	lines := Target{Address: "localhost:7233", Namespace: "it's; here"}.Commands([]string{"OutflowType"})
	require.Len(t, lines, 1)
	assert.True(t, slices.Contains(strings.SplitAfter(lines[0], "--namespace "),
		`'it'\''s; here' --name OutflowType --type Keyword`), lines[0])
	assert.Equal(t, strings.Count(localCommands, "\n"), len(local.Commands(nil)), "without names: all")
}
