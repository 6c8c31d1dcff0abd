// Package config reads the settings of Outflow's programs from the environment:
// the ecosystem's own names for Postgres, Temporal and AWS, and OUTFLOW_ names
// for the rest.
//
// The invariant: every mistake is reported, all at once, each with the
// variable's name and what it wants; nothing falls back in silence.
package config

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.temporal.io/sdk/client"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish/awssqs"
	"github.com/outflowhq/outflow/publish/webhook"
	"github.com/outflowhq/outflow/scanner"
)

// Config is everything that a program of Outflow is told.
type Config struct {
	Database *pgxpool.Config
	Temporal client.Options
	AWS      aws.Config
	Scanner  scanner.Options
	// Retention is how long final messages stay in the table.
	Retention outflow.Retention
	LogLevel  slog.Level
	LogJSON   bool
	// HealthAddress is where the probes are answered; "" for nowhere.
	HealthAddress string
	// Webhook says which https destinations are published to: none where it has no
	// hosts.
	Webhook webhook.Options
	// SQSTimeout bounds a request to SQS of a durable attempt; 0 means
	// awssqs.DefaultTimeout.
	SQSTimeout time.Duration
	// Traces says where spans are exported to: nowhere, unless OpenTelemetry's own
	// variables ask for it.
	Traces Traces

	webhookSecrets webhook.Secrets
	// secretsFile has the hosts' secrets; nil where no file is named.
	secretsFile *secretsFile
	headersFile *headersFile // nil likewise
	engine      *engineFiles
	// warnings are what is wrong with settings that nothing depends on.
	warnings []string
}

// WarnTo logs what is wrong with settings that no delivery depends on, and gives a log
// to what is read again while the program runs.
func (c Config) WarnTo(log *slog.Logger) {
	for _, w := range c.warnings {
		log.Warn("settings", "warning", w)
	}
	if c.secretsFile != nil {
		c.secretsFile.warnTo(log)
	}
	if c.headersFile != nil {
		c.headersFile.warnTo(log)
	}
	if c.engine != nil {
		c.engine.warnTo(log)
	}
}

// Setting documents one variable of Outflow's own.
type Setting struct {
	Name, Default, Meaning string
	set                    func(c *Config, value string) error
}

// orUnset gives the environment without settings that are "none" or "off" where
// help shows that as the default: it may be written down.
func orUnset(getenv func(string) string) func(string) string {
	return func(name string) string {
		value := getenv(name)
		for _, s := range Settings {
			if s.Name == name && value == s.Default && (value == "none" || value == "off") {
				return ""
			}
		}
		return value
	}
}

// Settings are Outflow's own variables, in the order in which help shows them.
var Settings = []Setting{
	{"OUTFLOW_OUTBOX", outflow.DefaultOutbox, "first part of every workflow ID; give each database its own where several share a namespace", setOutbox},
	{"OUTFLOW_TASK_QUEUE", "outflow- and OUTFLOW_OUTBOX", "Temporal task queue", setTaskQueue},
	{"OUTFLOW_POLL_INTERVAL", "250ms", "wait between two looks at an idle table, 10ms to 1m", setPollInterval},
	{"OUTFLOW_IN_FLIGHT", strconv.Itoa(scanner.DefaultInFlight), "messages in flight in a starter, 1 to 1000", setInFlight},
	{"OUTFLOW_PER_DESTINATION", "half of OUTFLOW_IN_FLIGHT", "messages of one target (a queue, a host) in flight in a starter, up to OUTFLOW_IN_FLIGHT", setPerDestination},
	{"OUTFLOW_LEASE", "1m", "how long a claimed message is left alone, 30s to 1h", setLease},
	{"OUTFLOW_KEEP_DELIVERED", outflow.DefaultRetention().Delivered.String(), "how long delivered messages stay in the table: 1m to 3650d, or forever", setKeepDelivered},
	{"OUTFLOW_KEEP_DEAD", outflow.DefaultRetention().Dead.String(), "how long dead messages stay", setKeepDead},
	{"OUTFLOW_KEEP_EXPIRED", outflow.DefaultRetention().Expired.String(), "how long expired messages stay", setKeepExpired},
	{"OUTFLOW_KEEP_CANCELLED", outflow.DefaultRetention().Cancelled.String(), "how long cancelled messages stay", setKeepCancelled},
	{"OUTFLOW_HISTORY", "off", "on moves them to outbox.history, off deletes them", setHistory},
	{"OUTFLOW_LOG_LEVEL", "info", "debug, info, warn or error", setLogLevel},
	{"OUTFLOW_LOG_FORMAT", "text", "text or json", setLogFormat},
	{"OUTFLOW_HEALTH_ADDRESS", "off", "where /livez and /readyz are answered, such as :8086 or 127.0.0.1:8086", setHealthAddress},
	{"OUTFLOW_SQS_TIMEOUT", awssqs.DefaultTimeout.String(), "how long SQS has to answer a durable attempt, 1s to 30s; a fast path waits 2.5 s at most", setSQSTimeout},
	{"OUTFLOW_WEBHOOK_TIMEOUT", webhook.DefaultTimeout.String(), "how long a receiver has to answer a durable attempt or a callback, 1s to 30s; a fast path waits 2.5 s at most", setWebhookTimeout},
	{"OUTFLOW_WEBHOOK_HOSTS", "none", "hosts that https destinations may name, such as hooks.example.com,*.example.org", setWebhookHosts},
	{settingWebhookSecretsFile, "none", "file with a line for each host: host whsec_… [whsec_…], all of which sign", setWebhookSecretsFile},
	{settingWebhookSecret, "none", "whsec_… for every host that has none of its own; several with spaces between them", setWebhookSecret},
	{settingWebhookHeadersFile, "none", "file with a line for each header that goes with every request to a host: host header-name: value", setWebhookHeadersFile},
	{settingWebhookNetworks, "none", "private networks that webhooks may be sent into, such as 10.1.0.0/16,fd00:1::/32", setWebhookNetworks},
	{"OUTFLOW_WEBHOOK_INSECURE_LOOPBACK", "off", "on lets destinations and callbacks on this machine through, http:// too, for development", setWebhookInsecureLoopback},
}

// Load reads all settings.
func Load(ctx context.Context, getenv func(string) string) (Config, error) {
	getenv = orUnset(getenv)
	c := Config{Retention: outflow.DefaultRetention(), warnings: Unknown(getenv)}
	var errs []error
	note := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	for _, s := range Settings {
		if value := getenv(s.Name); value != "" {
			if err := s.set(&c, value); err != nil {
				note(fmt.Errorf("%s: %w%s", s.Name, err, got(s.Name, value)))
			}
		}
	}
	if c.Scanner.PerDestination > cmp.Or(c.Scanner.InFlight, scanner.DefaultInFlight) {
		note(fmt.Errorf("OUTFLOW_PER_DESTINATION: wants at most OUTFLOW_IN_FLIGHT (got %d)", c.Scanner.PerDestination))
	}
	note(joinWebhooks(&c, getenv))
	var err error
	if c.Traces, err = readTraces(getenv); err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			c.warnings = append(c.warnings, line+"; no spans are exported")
		}
	}
	c.Database, err = Database(getenv)
	note(err)
	c.Temporal, c.engine, err = temporal(getenv)
	note(err)
	c.AWS, err = AWS(ctx, getenv)
	note(err)
	if len(errs) > 0 {
		return Config{}, fmt.Errorf("settings:\n%w", errors.Join(errs...))
	}
	return c, nil
}

// connectTimeout is how long an address has to answer where connect_timeout says
// nothing: one that swallows packets never does, and pgxpool's default is 2 minutes.
const connectTimeout = 10 * time.Second

// Database reads the database's settings alone: an operator's command works
// while the broker's are broken.
func Database(getenv func(string) string) (*pgxpool.Config, error) {
	url := getenv("DATABASE_URL")
	if url == "" && getenv("PGHOST") == "" && getenv("PGSERVICE") == "" && getenv("PGDATABASE") == "" {
		return nil, errors.New("DATABASE_URL: wants the application's database, such as postgres://user:password@host:5432/name (or libpq's PGHOST, PGDATABASE, …)")
	}
	c, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("DATABASE_URL: wants a Postgres URL or key=value settings: %s", withoutValue(err))
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

// withoutValue is what pgx says of a value, without the value: pgx blanks a
// password only where it can tell which part that is, and here it can't.
func withoutValue(err error) string {
	said := err.Error()
	if i := strings.LastIndex(said, "`: "); i >= 0 {
		said = said[i+len("`: "):]
	}
	// Behind these two it quotes what it stumbled over.
	switch {
	case strings.HasPrefix(said, "failed to parse as URL"):
		return "failed to parse as URL (percent-encode what is neither letter nor digit in the user name and the password)"
	case strings.HasPrefix(said, "failed to parse as keyword/value"):
		return "failed to parse as keyword/value (put a value with a space into single quotes)"
	}
	return brief(said)
}

// brief makes others' words one line of at most some hundred characters: they
// may repeat a value, whatever it is.
func brief(said string) string {
	const most = 400
	said = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(said, "\uFFFD"))
	if runes := []rune(said); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return said
}

// got ends an error with the value, unless that is a secret, or one in the wrong
// place.
func got(name, value string) string {
	header := name == settingWebhookHeadersFile && strings.Contains(value, ": ")
	if name == settingWebhookSecret || strings.Contains(value, "whsec_") || header {
		return ""
	}
	return " (got " + quote(value) + ")"
}

// quote repeats a value, in part if it is long.
func quote(value string) string {
	const most = 100
	if len(value) <= most {
		return strconv.Quote(value)
	}
	return fmt.Sprintf("%q… of %d bytes", value[:most], len(value))
}

// Names checks those of Outflow's own settings that an operator's command shares
// with the daemons: under another name it would look for runs that are not there.
func Names(getenv func(string) string) error {
	var errs []error
	for _, s := range Settings {
		value := getenv(s.Name)
		if value == "" || s.Name != "OUTFLOW_OUTBOX" && s.Name != "OUTFLOW_TASK_QUEUE" {
			continue
		}
		if err := s.set(new(Config), value); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w%s", s.Name, err, got(s.Name, value)))
		}
	}
	return errors.Join(errs...)
}

// Logger returns the logger that the settings ask for, writing to w.
func (c Config) Logger(w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.LogLevel}
	if c.LogJSON {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// A workflow ID goes into URLs and shell commands.
var plainName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`)

func setOutbox(c *Config, value string) error    { return setName(&c.Scanner.Outbox, value) }
func setTaskQueue(c *Config, value string) error { return setName(&c.Scanner.TaskQueue, value) }

func setName(into *string, value string) error {
	if !plainName.MatchString(value) {
		return errors.New(`wants 1 to 100 letters, digits or any of ". _ -", the first a letter or digit`)
	}
	*into = value
	return nil
}

func setPollInterval(c *Config, value string) error {
	return setDuration(&c.Scanner.PollInterval, value, 10*time.Millisecond, time.Minute)
}

func setLease(c *Config, value string) error {
	return setDuration(&c.Scanner.Lease, value, 30*time.Second, time.Hour)
}

func setSQSTimeout(c *Config, value string) error {
	return setDuration(&c.SQSTimeout, value, time.Second, outflow.MaxCallTime)
}

func setWebhookTimeout(c *Config, value string) error {
	return setDuration(&c.Webhook.Timeout, value, time.Second, outflow.MaxCallTime)
}

func setDuration(into *time.Duration, value string, least, most time.Duration) error {
	d, err := time.ParseDuration(value)
	if err != nil || d < least || d > most {
		return fmt.Errorf("wants a duration from %s to %s", least, most)
	}
	*into = d
	return nil
}

func setKeepDelivered(c *Config, value string) error { return setKeep(&c.Retention.Delivered, value) }
func setKeepDead(c *Config, value string) error      { return setKeep(&c.Retention.Dead, value) }
func setKeepExpired(c *Config, value string) error   { return setKeep(&c.Retention.Expired, value) }
func setKeepCancelled(c *Config, value string) error { return setKeep(&c.Retention.Cancelled, value) }

func setKeep(into *outflow.Keep, value string) (err error) {
	*into, err = outflow.ParseKeep(value)
	return err
}

func setHistory(c *Config, value string) error {
	if value != "on" && value != "off" {
		return errors.New("wants on or off")
	}
	c.Retention.History = value == "on"
	return nil
}

func setInFlight(c *Config, value string) error { return setCount(&c.Scanner.InFlight, value) }
func setPerDestination(c *Config, value string) error {
	return setCount(&c.Scanner.PerDestination, value)
}

// mostInFlight is the SDK's default number of workflow-task slots; a start
// beyond it would not be eager.
const mostInFlight = 1000

func setCount(into *int, value string) error {
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 || n > mostInFlight {
		return fmt.Errorf("wants a whole number from 1 to %d", mostInFlight)
	}
	*into = n
	return nil
}

func setHealthAddress(c *Config, value string) error {
	if !isHostPort(value) {
		return errors.New("wants host:port or :port, the port from 1 to 65535, such as :8086")
	}
	c.HealthAddress = value
	return nil
}

func setLogLevel(c *Config, value string) error {
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		if strings.EqualFold(value, level.String()) { // no "info+4", which slog itself would take
			c.LogLevel = level
			return nil
		}
	}
	return errors.New("wants debug, info, warn or error")
}

func setLogFormat(c *Config, value string) error {
	if value != "text" && value != "json" {
		return errors.New("wants text or json")
	}
	c.LogJSON = value == "json"
	return nil
}
