// Package config reads the settings of Outflow's programs from the environment: the
// ecosystem's own names for Postgres and Temporal, and OUTFLOW_ names for the rest. Each
// broker reads its own, in internal/brokers.
//
// The invariant: every mistake is reported, all at once, each with the variable's name and
// with what the variable wants. No mistake is ignored silently.
package config

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.temporal.io/sdk/client"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/brokers"
	"github.com/outflowhq/outflow/internal/engine"
	"github.com/outflowhq/outflow/internal/settings"
	"github.com/outflowhq/outflow/scanner"
	"github.com/outflowhq/outflow/scanner/trigger"
)

// Config is every setting of a program.
type Config struct {
	Database *pgxpool.Config
	Temporal client.Options
	// Brokers are those that messages are published to, each with its settings.
	Brokers []brokers.Broker
	Scanner scanner.Options
	// MissingGrace is how long messages wait for a missing destination or publisher, as
	// scanner.Options.MissingGrace has it.
	MissingGrace time.Duration
	// PassDead has a dead message let the next one of its ordering key go.
	PassDead bool
	// Streams is how many streams this process takes at once.
	Streams int
	// Trigger is what wakes the scanner. Listen has the settings of its connections.
	Trigger trigger.Kind
	Listen  *pgxpool.Config
	// Retention is how long final messages stay in the table.
	Retention outflow.Retention
	LogLevel  slog.Level
	LogJSON   bool
	// HealthAddress is where the probes are answered; "" for nowhere.
	HealthAddress string
	// Traces says where spans are exported to: nowhere, unless OpenTelemetry's own
	// variables ask for it.
	Traces Traces
	// Metrics says whether metrics are pushed, by the same variables.
	Metrics Metrics

	engine *engine.Files
	// warnings are about settings that nothing depends on.
	warnings []string
}

// WarnTo logs what is wrong with settings that no delivery depends on, and gives a log
// to the settings that are read again while the program runs.
func (c Config) WarnTo(log *slog.Logger) {
	for _, w := range c.warnings {
		log.Warn("settings", "warning", w)
	}
	for _, b := range c.Brokers {
		b.WarnTo(log)
	}
	c.engine.WarnTo(log)
}

// Settings are Outflow's own variables, in the order in which help shows them. Load sets
// those of a Config of its own.
var Settings = own(slices.Concat(new(Config).settings(), brokers.Settings()))

// Ecosystem are other projects' variables that help names: they lead to the rest.
var Ecosystem = slices.Concat([]settings.Setting{
	{Name: "DATABASE_URL", Meaning: "the application's Postgres (or PGHOST, PGDATABASE, …)"},
	{
		Name: "TEMPORAL_ADDRESS", Default: "localhost:7233",
		Meaning: "Temporal's frontend; also TEMPORAL_NAMESPACE, TEMPORAL_API_KEY, TEMPORAL_TLS_…",
	},
}, ecosystem(brokers.Settings()), []settings.Setting{
	{
		Name: "OTEL_EXPORTER_OTLP_ENDPOINT", Default: "none",
		Meaning: "where spans and metrics go, such as http://localhost:4318; " +
			"also OpenTelemetry's other variables for both",
	},
})

func own(all []settings.Setting) []settings.Setting {
	return slices.DeleteFunc(all, func(s settings.Setting) bool { return s.Set == nil })
}

func ecosystem(all []settings.Setting) []settings.Setting {
	return slices.DeleteFunc(all, func(s settings.Setting) bool { return s.Set != nil })
}

const (
	settingDatabase  = "DATABASE_URL"
	settingListenURL = "OUTFLOW_LISTEN_URL"
)

// The two names that an operator's command shares with the daemons.
const (
	settingOutbox    = "OUTFLOW_OUTBOX"
	settingTaskQueue = "OUTFLOW_TASK_QUEUE"
)

const settingStreamAbove = "OUTFLOW_STREAM_ABOVE"

// settings are the variables of all but the brokers.
func (c *Config) settings() []settings.Setting {
	keeps := outflow.DefaultRetention()
	return []settings.Setting{
		{
			Name: settingOutbox, Default: outflow.DefaultOutbox,
			Meaning: "first part of every workflow ID; give each database its own where several share a namespace",
			Set:     setName(&c.Scanner.Outbox),
		},
		{
			Name: settingTaskQueue, Default: "outflow- and OUTFLOW_OUTBOX",
			Meaning: "Temporal task queue",
			Set:     setName(&c.Scanner.TaskQueue),
		},
		{
			Name: "OUTFLOW_POLL_INTERVAL", Default: "250ms",
			Meaning: "wait between two looks at an idle table, 10ms to 1h; 1m by default while a trigger works",
			Set:     settings.Duration(&c.Scanner.PollInterval, 10*time.Millisecond, time.Hour),
		},
		{
			Name: "OUTFLOW_TRIGGER", Default: string(trigger.Poll),
			Meaning: "what wakes an idle starter: poll; listen, the commits of producers; or wal, the database's log",
			Set:     c.setTrigger,
		},
		{
			Name: settingListenURL, Default: "DATABASE_URL",
			Meaning: "direct connection for OUTFLOW_TRIGGER, where DATABASE_URL leads to a pooler",
			Set:     func(string) error { return nil }, // read by Load
			Secret:  func(string) bool { return true },
		},
		{
			Name: "OUTFLOW_IN_FLIGHT", Default: strconv.Itoa(scanner.DefaultInFlight),
			Meaning: "messages in flight in a starter, 1 to 1000",
			Set:     setCount(&c.Scanner.InFlight),
		},
		{
			Name: "OUTFLOW_PER_DESTINATION", Default: "half of OUTFLOW_IN_FLIGHT",
			Meaning: "messages of one target (a queue, a host) in flight in a starter, up to OUTFLOW_IN_FLIGHT",
			Set:     setCount(&c.Scanner.PerDestination),
		},
		{
			Name: settingStreamAbove, Default: "off",
			Meaning: "due messages of one queue, topic or exchange above which a stream delivers them, 1 to 100000, or off",
			Set:     c.setStreamAbove,
		},
		{
			Name: "OUTFLOW_STREAMS", Default: strconv.Itoa(DefaultStreams),
			Meaning: "streams at once in this process, 0 to 100",
			Set:     c.setStreams,
		},
		{
			Name: "OUTFLOW_LEASE", Default: "1m",
			Meaning: "how long a claimed message is left alone, 30s to 1h",
			Set:     settings.Duration(&c.Scanner.Lease, 30*time.Second, time.Hour),
		},
		{
			Name: "OUTFLOW_MISSING_GRACE", Default: "10m",
			Meaning: "how long messages wait for a queue, topic or publisher that is not there before they end dead, " +
				"1s to 168h; 0 for not at all",
			Set: setGrace(&c.MissingGrace),
		},
		{
			Name: "OUTFLOW_ORDER_DEAD", Default: "block",
			Meaning: "what a dead message does to those behind it with its ordering key: block or pass",
			Set:     c.setOrderDead,
		},
		{
			Name: "OUTFLOW_KEEP_DELIVERED", Default: keeps.Delivered.String(),
			Meaning: "how long delivered messages stay in the table: 1m to 3650d, or forever",
			Set:     setKeep(&c.Retention.Delivered),
		},
		{
			Name: "OUTFLOW_KEEP_DEAD", Default: keeps.Dead.String(),
			Meaning: "how long dead messages stay",
			Set:     setKeep(&c.Retention.Dead),
		},
		{
			Name: "OUTFLOW_KEEP_EXPIRED", Default: keeps.Expired.String(),
			Meaning: "how long expired messages stay",
			Set:     setKeep(&c.Retention.Expired),
		},
		{
			Name: "OUTFLOW_KEEP_CANCELLED", Default: keeps.Cancelled.String(),
			Meaning: "how long cancelled messages stay",
			Set:     setKeep(&c.Retention.Cancelled),
		},
		{
			Name: "OUTFLOW_HISTORY", Default: "off",
			Meaning: "on moves them to outbox.history, off deletes them",
			Set:     settings.OnOff(&c.Retention.History),
		},
		{Name: "OUTFLOW_LOG_LEVEL", Default: "info", Meaning: "debug, info, warn or error", Set: c.setLogLevel},
		{Name: "OUTFLOW_LOG_FORMAT", Default: "text", Meaning: "text or json", Set: c.setLogFormat},
		{
			Name: "OUTFLOW_HEALTH_ADDRESS", Default: "off",
			Meaning: "where /livez, /readyz and /metrics are answered, such as :8086 or 127.0.0.1:8086",
			Set:     c.setHealthAddress,
		},
	}
}

// Load reads all settings.
func Load(ctx context.Context, getenv func(string) string) (Config, error) {
	c := Config{
		Retention: outflow.DefaultRetention(), Streams: DefaultStreams, Trigger: trigger.Poll, warnings: Unknown(getenv),
	}
	errs := settings.Read(c.settings(), getenv)
	note := func(err error) {
		same := func(e error) bool { return e.Error() == err.Error() } // two parts may read a variable
		if err != nil && !slices.ContainsFunc(errs, same) {
			errs = append(errs, err)
		}
	}
	if c.Scanner.PerDestination > cmp.Or(c.Scanner.InFlight, scanner.DefaultInFlight) {
		note(fmt.Errorf("OUTFLOW_PER_DESTINATION: wants at most OUTFLOW_IN_FLIGHT (got %d)", c.Scanner.PerDestination))
	}
	var err error
	if c.Traces, err = readTraces(getenv); err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			c.warnings = append(c.warnings, line+"; no spans are exported")
		}
	}
	if c.Metrics, err = readMetrics(getenv); err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			c.warnings = append(c.warnings, line+"; no metrics are pushed")
		}
	}
	c.Database, err = Database(getenv)
	note(err)
	c.Listen = c.Database
	if url := getenv(settingListenURL); url != "" {
		c.Listen, err = database(settingListenURL, url, getenv)
		note(err)
	}
	c.Temporal, c.engine, err = engine.Load(getenv)
	note(err)
	c.Brokers = brokers.Load(ctx, getenv)
	note(brokers.Problems(c.Brokers))
	if len(errs) > 0 {
		return Config{}, fmt.Errorf("settings:\n%w", errors.Join(errs...))
	}
	return c, nil
}

// connectTimeout is how long an address has to answer where connect_timeout is not set: an address
// that drops packets never answers, and pgxpool's default is 2 minutes.
const connectTimeout = 10 * time.Second

// Database reads the database's settings alone: an operator's command works while the broker's
// settings are wrong.
func Database(getenv func(string) string) (*pgxpool.Config, error) {
	url := getenv("DATABASE_URL")
	if url == "" && getenv("PGHOST") == "" && getenv("PGSERVICE") == "" && getenv("PGDATABASE") == "" {
		return nil, errors.New("DATABASE_URL: wants the application's database, " +
			"such as postgres://user:password@host:5432/name (or libpq's PGHOST, PGDATABASE, …)")
	}
	return database(settingDatabase, url, getenv)
}

// database reads the connection string of a setting.
func database(setting, url string, getenv func(string) string) (*pgxpool.Config, error) {
	c, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("%s: wants a Postgres URL or key=value settings: %s", setting, withoutValue(err))
	}
	if c.ConnConfig.RuntimeParams["application_name"] == "" {
		c.ConnConfig.RuntimeParams["application_name"] = "outflow"
	}
	if c.ConnConfig.ConnectTimeout <= 0 {
		c.ConnConfig.ConnectTimeout = connectTimeout
	}
	c.BeforeConnect = rotateDatabase(url)
	session(c, getenv)
	return c, nil
}

// withoutValue returns pgx's error about a value, without the value: pgx blanks a password only
// where it can tell the password from the rest, and here it can't.
func withoutValue(err error) string {
	said := err.Error()
	if i := strings.LastIndex(said, "`: "); i >= 0 {
		said = said[i+len("`: "):]
	}
	// Behind these two it quotes a part of the value.
	switch {
	case strings.HasPrefix(said, "failed to parse as URL"):
		return "failed to parse as URL " +
			"(percent-encode every character but letters and digits in the user name and the password)"
	case strings.HasPrefix(said, "failed to parse as keyword/value"):
		return "failed to parse as keyword/value (put a value with a space into single quotes)"
	}
	return settings.Brief(said)
}

// Temporal reads Temporal's settings alone.
func Temporal(getenv func(string) string) (client.Options, error) {
	options, _, err := engine.Load(getenv)
	return options, err
}

// Names checks those of Outflow's own settings that an operator's command shares with the daemons:
// under another name it would look for runs that do not exist.
func Names(getenv func(string) string) error {
	names := slices.DeleteFunc(new(Config).settings(), func(s settings.Setting) bool {
		return s.Name != settingOutbox && s.Name != settingTaskQueue
	})
	return errors.Join(settings.Read(names, getenv)...)
}

// StreamAbove reads the starters' bound of streams alone.
func StreamAbove(getenv func(string) string) (int, error) {
	var c Config
	only := slices.DeleteFunc(c.settings(), func(s settings.Setting) bool { return s.Name != settingStreamAbove })
	err := errors.Join(settings.Read(only, getenv)...)
	return c.Scanner.StreamAbove, err
}

// Logger returns the logger that the settings ask for, writing to w.
func (c Config) Logger(w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.LogLevel}
	if c.LogJSON {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}
