package outflow_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/outflowhq/outflow"

// arrows says what each room may import: other rooms, and the libraries that
// are some rooms' own business. A new room must be added here.
var arrows = map[string]struct{ rooms, libraries []string }{
	".":                {[]string{"internal/text"}, []string{"github.com/google/uuid"}},
	"outbox":           {[]string{"."}, []string{"github.com/google/uuid"}},
	"internal/text":    {nil, nil},
	"internal/metrics": {[]string{".", "outbox"}, []string{"go.opentelemetry.io/otel"}},
	"outboxdb": {[]string{".", "internal/coalesce", "internal/database", "internal/text",
		"internal/tracing", "outbox"}, []string{"github.com/jackc/pgx/v5", "github.com/google/uuid"}},
	"outboxdb/outboxtest": {[]string{".", "activities", "outbox", "outboxdb", "workflows"},
		[]string{"github.com/jackc/pgx/v5", "go.temporal.io/sdk/testsuite", "github.com/google/uuid"}},
	"outboxdb/wait": {[]string{".", "internal/database", "internal/listen"},
		[]string{"github.com/jackc/pgx/v5", "github.com/google/uuid"}},
	"internal/listen": {nil, []string{"github.com/jackc/pgx/v5", "github.com/google/uuid"}},
	"outboxdb/migrate": {[]string{"internal/migrations", "outboxdb/migrations"},
		[]string{"github.com/jackc/pgx/v5"}},
	"outboxdb/migrations": {nil, nil},
	"inbox/migrate": {[]string{"inbox/migrations", "internal/migrations"},
		[]string{"github.com/jackc/pgx/v5"}},
	"inbox/migrations": {nil, nil},
	"inbox": {[]string{"internal/database"},
		[]string{"github.com/jackc/pgx/v5", "github.com/google/uuid"}},
	"publish": {[]string{".", "internal/panics"}, nil},
	"publish/awssns": {[]string{".", "publish", "publish/internal/aws", "publish/internal/awsbatch"},
		[]string{"github.com/aws/", "go.opentelemetry.io/otel/metric"}},
	"publish/awssqs": {[]string{".", "publish", "publish/internal/aws", "publish/internal/awsbatch"},
		[]string{"github.com/aws/", "github.com/google/uuid", "go.opentelemetry.io/otel/metric"}},
	"publish/temporalwf": {[]string{".", "internal/text", "publish"},
		[]string{"github.com/google/uuid", "go.temporal.io/api", "go.temporal.io/sdk", "google.golang.org/grpc"}},
	"publish/webhook": {[]string{".", "internal/text", "publish", "publish/internal/retryafter"},
		[]string{"github.com/google/uuid"}},
	"publish/internal/aws": {[]string{".", "internal/text", "publish", "publish/internal/retryafter"},
		[]string{"github.com/aws/", "github.com/google/uuid"}},
	"publish/internal/awsbatch": {[]string{".", "publish", "publish/internal/aws", "internal/coalesce",
		"internal/metrics", "internal/panics", "internal/text"}, []string{"go.opentelemetry.io/otel/metric"}},
	"publish/rabbitmq": {[]string{".", "internal/panics", "internal/text", "publish"},
		[]string{"github.com/rabbitmq/amqp091-go", "github.com/google/uuid", "golang.org/x/sync/semaphore"}},
	"publish/internal/retryafter": {nil, nil},
	"publish/publishtest": {[]string{".", "internal/testport", "internal/text", "publish"},
		[]string{"github.com/stretchr/testify", "github.com/google/uuid"}},
	"publish/publishtest/amqprelay":   {nil, nil},
	"publish/publishtest/conformance": {[]string{"publish/publishtest"}, nil},
	"publish/publishtest/fakesns": {[]string{"publish/publishtest/fakesqs", "publish/publishtest/internal/fake"},
		nil},
	"publish/publishtest/fakesqs":       {[]string{"publish/publishtest/internal/fake"}, nil},
	"publish/publishtest/internal/fake": {nil, nil},
	"activities": {[]string{".", "internal/metrics", "internal/panics", "internal/text",
		"internal/timing", "internal/tracing", "outbox", "publish"}, []string{"go.temporal.io/", "go.opentelemetry.io/otel/metric", "go.opentelemetry.io/otel/trace", "github.com/google/uuid"}},
	"workflows": {[]string{".", "activities", "internal/text", "internal/timing", "outbox"},
		[]string{"go.temporal.io/", "github.com/google/uuid"}},
	"internal/presence": {[]string{"outbox"}, []string{"github.com/google/uuid"}},
	"scanner": {[]string{".", "internal/metrics", "internal/presence", "internal/stall", "internal/timing",
		"internal/tracing", "outbox", "workflows"}, []string{"go.temporal.io/", "go.opentelemetry.io/otel/metric", "go.opentelemetry.io/otel/trace", "github.com/google/uuid"}},
	"scanner/trigger": {[]string{"internal/listen", "outbox", "outboxdb"},
		[]string{"github.com/jackc/pgx/v5", "github.com/jackc/pglogrepl", "github.com/google/uuid"}},
	"internal/callbacks": {[]string{".", "activities", "internal/tracing", "publish", "publish/webhook"}, nil},
	"internal/coalesce":  {[]string{".", "internal/panics"}, nil},
	"internal/panics":    {nil, nil},
	"internal/bounded":   {nil, nil},
	"internal/brokers": {[]string{".", "internal/engine", "internal/settings", "publish", "publish/awssns",
		"publish/awssqs", "publish/rabbitmq", "publish/temporalwf", "publish/webhook"}, []string{"github.com/aws/"}},
	"internal/config": {[]string{".", "internal/bounded", "internal/brokers", "internal/engine", "internal/settings",
		"scanner", "scanner/trigger"}, []string{"github.com/jackc/pgservicefile", "github.com/jackc/pgx/v5", "go.temporal.io/"}},
	"internal/engine":   {[]string{"internal/settings"}, []string{"go.temporal.io/", "google.golang.org/grpc"}},
	"internal/database": {nil, []string{"github.com/jackc/pgx/v5"}},
	"internal/golden":   {nil, []string{"github.com/stretchr/testify"}},
	"internal/migrations": {[]string{"internal/database"},
		[]string{"github.com/jackc/pgx/v5", "github.com/pressly/goose/v3"}},
	"internal/settings": {[]string{"internal/bounded", "internal/text"}, nil},
	"internal/stall": {[]string{"activities", "workflows"},
		[]string{"go.temporal.io/", "github.com/google/uuid"}},
	"internal/timing": {[]string{".", "outbox"}, nil},
	"internal/tracing": {[]string{".", "internal/text", "outbox"},
		[]string{"go.opentelemetry.io/otel", "github.com/google/uuid"}},
	"internal/program": {[]string{".", "internal/config", "internal/text"}, nil},
	"dispatcher": {
		[]string{".", "activities", "internal/callbacks", "internal/metrics", "internal/timing", "namespace",
			"outboxdb", "publish", "scanner", "scanner/trigger", "workflows"},
		[]string{"github.com/jackc/pgx/v5", "go.temporal.io/"},
	},
	"internal/service": {
		[]string{".", "activities", "internal/brokers", "internal/callbacks", "internal/config", "internal/engine",
			"internal/metrics", "internal/presence", "internal/telemetry", "internal/timing", "namespace", "outbox",
			"outboxdb", "publish", "scanner", "scanner/trigger", "workflows"},
		[]string{"github.com/jackc/pgx/v5", "go.temporal.io/", "google.golang.org/grpc/codes"},
	},
	"internal/telemetry": {[]string{"internal/config", "internal/timing"}, []string{"go.opentelemetry.io/otel",
		"go.temporal.io/sdk/client", "github.com/prometheus/client_golang", "github.com/google/uuid"}},
	"internal/teststack": {[]string{"outboxdb/migrate", "publish/publishtest/fakesqs"},
		[]string{"github.com/jackc/pgx/v5", "github.com/lib/pq", "github.com/stretchr/testify"}},
	"internal/testport": {nil, []string{"github.com/stretchr/testify"}},
	"internal/testmetrics": {nil, []string{"github.com/stretchr/testify", "go.opentelemetry.io/otel",
		"go.opentelemetry.io/otel/sdk/metric"}},
	"starter": {[]string{"internal/config", "internal/program", "internal/service"}, nil},
	"worker":  {[]string{"internal/config", "internal/program", "internal/service"}, nil},
	"cmd/outflow": {
		[]string{".", "internal/bounded", "internal/brokers", "internal/config", "internal/program", "internal/text",
			"namespace", "operator", "outbox", "outboxdb", "outboxdb/migrate", "outboxdb/wait", "publish", "workflows"},
		[]string{"github.com/jackc/pgx/v5", "go.temporal.io/", "github.com/google/uuid"},
	},
	"namespace": {[]string{"internal/stall", "internal/text", "outbox", "workflows"},
		[]string{"go.temporal.io/", "google.golang.org/protobuf/types/known/durationpb", "github.com/google/uuid"}},
	"operator": {[]string{".", "internal/database", "internal/text", "namespace", "outbox", "outboxdb",
		"outboxdb/migrate", "workflows"}, []string{"go.temporal.io/", "github.com/jackc/pgx/v5", "github.com/google/uuid"}},
	"examples/adopt/after":  {[]string{".", "outboxdb"}, []string{"github.com/jackc/pgx/v5"}},
	"examples/adopt/before": {nil, []string{"github.com/aws/", "github.com/jackc/pgx/v5"}},
	"examples/embed": {
		[]string{".", "dispatcher", "outboxdb", "publish", "publish/awssqs", "scanner"},
		[]string{"github.com/aws/", "github.com/jackc/pgx/v5", "go.temporal.io/"},
	},
	"examples/orders": {
		[]string{".", "outboxdb"}, []string{"github.com/jackc/pgx/v5", "go.temporal.io/", "github.com/google/uuid"},
	},
	"examples/signup": {[]string{".", "inbox", "inbox/migrate", "outboxdb", "outboxdb/wait", "publish/awssqs"},
		[]string{"github.com/aws/", "github.com/jackc/pgx/v5", "go.temporal.io/", "github.com/google/uuid"}},
	"examples/signup/demo": {[]string{"examples/signup"},
		[]string{"github.com/jackc/pgx/v5", "github.com/google/uuid"}},
}

// TestImportArrows keeps every room to its arrows. Tests may import more.
func TestImportArrows(t *testing.T) {
	seen := map[string]bool{}
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if name == "devstack" || name == "bench" || name == "examples/recipes" ||
				name == "examples/publisher" ||
				strings.HasPrefix(entry.Name(), ".") && name != "." || entry.Name() == "testdata" {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		room := path.Dir(filepath.ToSlash(name))
		seen[room] = true
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range file.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if !allowed(room, imported) {
				t.Errorf("%s: room %q may not import %s", name, room, imported)
			}
		}
		return nil
	})
	require.NoError(t, err)
	for room := range arrows {
		if !seen[room] {
			t.Errorf("room %q is in the table and not in the tree", room)
		}
	}
}

// TestConsumersLinkNoDispatcher: what a consumer imports does not lead
// to Temporal, and reading a message takes no database driver.
func TestConsumersLinkNoDispatcher(t *testing.T) {
	var look func(room, from, library string)
	look = func(room, from, library string) {
		for _, l := range arrows[room].libraries {
			if strings.HasPrefix(l, library) {
				t.Errorf("a consumer that imports %q links %s, by way of %q", from, l, room)
			}
		}
		for _, next := range arrows[room].rooms {
			look(next, from, library)
		}
	}
	look("inbox", "inbox", "go.temporal.io/")
	look("inbox", "inbox", "github.com/aws/")
	for _, room := range []string{"publish/awssns", "publish/awssqs", "publish/rabbitmq"} {
		look(room, room, "go.temporal.io/")
		look(room, room, "github.com/jackc/pgx")
	}
}

// TestLibrariesLinkNoSDK: whoever embeds Outflow decides himself on OpenTelemetry's
// SDK and its exporters; only our own programs bring them.
func TestLibrariesLinkNoSDK(t *testing.T) {
	heavy := []string{"go.opentelemetry.io/otel/sdk", "go.opentelemetry.io/otel/exporters", "go.opentelemetry.io/proto"}
	for _, room := range []string{"inbox", "outboxdb", "publish/awssns", "publish/awssqs", "publish/rabbitmq",
		"publish/webhook", "activities", "workflows",
		"scanner", "namespace", "operator", "dispatcher", "cmd/outflow"} {
		require.Empty(t, linked(t, room, heavy...), room)
	}
	require.NotEmpty(t, linked(t, "starter", heavy...), "the list of what is heavy is true")
}

// TestProducersLinkNoGoose: a program that enqueues, waits or consumes links goose only
// where it migrates.
func TestProducersLinkNoGoose(t *testing.T) {
	const goose = "github.com/pressly/goose"
	for _, room := range []string{"inbox", "outboxdb", "outboxdb/wait"} {
		require.Empty(t, linked(t, room, goose), room)
	}
	require.NotEmpty(t, linked(t, "outboxdb/migrate", goose))
}

// linked returns the packages that a room links and whose paths begin with a prefix.
func linked(t *testing.T, room string, prefixes ...string) (found []string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "./"+room).Output()
	require.NoError(t, err, "listing what %s links", room)
	for name := range strings.FieldsSeq(string(out)) {
		if slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
			found = append(found, name)
		}
	}
	return found
}

func allowed(room, imported string) bool {
	own, ok := arrows[room]
	if !ok {
		return false
	}
	if imported == module || strings.HasPrefix(imported, module+"/") {
		target := strings.TrimPrefix(strings.TrimPrefix(imported, module), "/")
		if target == "" {
			target = "."
		}
		for _, r := range own.rooms {
			if r == target {
				return true
			}
		}
		return false
	}
	first, _, _ := strings.Cut(imported, "/")
	if !strings.Contains(first, ".") {
		return true // the standard library
	}
	for _, l := range own.libraries {
		if strings.HasPrefix(imported, l) {
			return true
		}
	}
	return false
}

// requirements are the direct requirements of the module, each with its reason.
var requirements = map[string]string{
	"github.com/aws/aws-sdk-go-v2":             "AWS: the client's settings",
	"github.com/aws/aws-sdk-go-v2/config":      "AWS: the default chain",
	"github.com/aws/aws-sdk-go-v2/service/sns": "AWS: topics",
	"github.com/aws/aws-sdk-go-v2/service/sqs": "AWS: queues",
	"github.com/aws/aws-sdk-go-v2/service/sts": "AWS: the account of topics",
	"github.com/aws/smithy-go":                 "AWS: the errors of its clients",

	"github.com/rabbitmq/amqp091-go": "RabbitMQ",
	"golang.org/x/sync":              "RabbitMQ: room for a bounded number of messages without a confirm",

	"github.com/google/uuid":                                   "message IDs",
	"github.com/jackc/pgx/v5":                                  "Postgres",
	"github.com/jackc/pglogrepl":                               "Postgres: the stream of its log",
	"github.com/jackc/pgservicefile":                           "Postgres: files with connection settings, which pgx reads too",
	"github.com/pressly/goose/v3":                              "Postgres: migrations",
	"github.com/standard-webhooks/standard-webhooks/libraries": "tests: signatures by their own library",

	"github.com/prometheus/client_golang":                               "metrics: the endpoint",
	"go.opentelemetry.io/otel":                                          "spans and metrics: the API",
	"go.opentelemetry.io/otel/metric":                                   "metrics: the API",
	"go.opentelemetry.io/otel/trace":                                    "spans: the API",
	"go.opentelemetry.io/otel/sdk":                                      "spans: the SDK",
	"go.opentelemetry.io/otel/sdk/metric":                               "metrics: the SDK",
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp": "metrics: OTLP",
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp":   "spans: OTLP",
	"go.opentelemetry.io/otel/exporters/prometheus":                     "metrics: Prometheus",

	"go.temporal.io/sdk":                   "Temporal",
	"go.temporal.io/sdk/contrib/envconfig": "Temporal: the variables of its own tools",
	"go.temporal.io/api":                   "Temporal: the types of its API",
	"google.golang.org/grpc":               "Temporal: the codes of its errors",
	"google.golang.org/protobuf":           "Temporal: durations of its API",

	"github.com/aws/aws-sdk-go-v2/credentials": "tests: fake credentials",
	"github.com/lib/pq":                        "tests: another driver of Postgres",
	"github.com/stretchr/testify":              "tests",
	"go.uber.org/goleak":                       "tests: goroutines that end",
	"go.yaml.in/yaml/v3":                       "tests: the files of deploy/",
}

// TestDirectRequirements has a reason for each requirement: see
// docs/decisions/0029-one-module-for-library-and-programs.md.
func TestDirectRequirements(t *testing.T) {
	text, err := os.ReadFile("go.mod")
	require.NoError(t, err)
	var direct []string
	for _, line := range regexp.MustCompile(`(?m)^\t(\S+) v\S+$`).FindAllStringSubmatch(string(text), -1) {
		direct = append(direct, line[1])
	}
	require.ElementsMatch(t, slices.Collect(maps.Keys(requirements)), direct)
}
