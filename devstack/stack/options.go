package stack

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"

	"github.com/jackc/pgx/v5"
)

// DefaultDir holds the data and the env file of a stack unless an option names another folder.
const DefaultDir = ".devstack"

// Options says what to bring up. The zero value is a stack with data in DefaultDir, on free ports.
type Options struct {
	// DataDir holds Postgres's data and the logs; default DefaultDir. Not together with Ephemeral.
	DataDir string
	// Ephemeral puts the data into a temporary folder that Down removes. The next ephemeral stack
	// removes what a killed one left.
	Ephemeral bool
	// Durable makes Postgres of an ephemeral stack keep every commit through a crash, as it does
	// with a DataDir anyway.
	Durable bool
	// PostgresSettings are more settings of an own Postgres, as NAME=VALUE.
	PostgresSettings []string
	// Ports on the loopback address; 0 is that of the last stack on the same DataDir where it is
	// free, else a free one.
	PostgresPort, TemporalPort, UIPort, QueuePort, RabbitMQPort int
	// RabbitMQ brings RabbitMQ up, too; the machine must have it.
	RabbitMQ bool
	// Queues are made when the stack comes up: they live in memory, so they are made at each start.
	Queues []string
	// EnvFile is written when all is up, and removed by Down; "" is none.
	EnvFile string
	// DatabaseURL is a Postgres to use instead of an own one. Temporal's databases are made in it
	// too, unless TemporalAddress is given.
	DatabaseURL string
	// TemporalAddress is a Temporal (no TLS) to use instead of an own one; its namespace and search
	// attributes are prepared.
	TemporalAddress string
}

func (o *Options) validate() error {
	var errs []error
	if o.Ephemeral && o.DataDir != "" {
		errs = append(errs, errors.New("--data and --ephemeral: give one of them"))
	}
	if !o.Ephemeral && o.DataDir == "" {
		o.DataDir = DefaultDir
	}
	for name, port := range map[string]int{"--postgres-port": o.PostgresPort, "--temporal-port": o.TemporalPort,
		"--ui-port": o.UIPort, "--sqs-port": o.QueuePort, "--rabbitmq-port": o.RabbitMQPort} {
		if port < 0 || port > 65535 {
			errs = append(errs, fmt.Errorf("%s: %d is no port (0 is a free one)", name, port))
		}
	}
	for _, name := range o.Queues {
		if !queueName.MatchString(name) {
			errs = append(errs, fmt.Errorf("--queue: %q is no queue's name (1 to 80 letters, digits, "+
				"- or _, and .fifo behind a FIFO queue's)", name))
		}
	}
	if o.DatabaseURL != "" {
		if _, err := pgx.ParseConfig(o.DatabaseURL); err != nil {
			errs = append(errs, fmt.Errorf("--database-url: %w", err))
		}
	}
	if o.TemporalAddress != "" {
		if _, _, err := net.SplitHostPort(o.TemporalAddress); err != nil {
			errs = append(errs, fmt.Errorf("--temporal-address wants HOST:PORT: %w", err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return OptionsError{err}
	}
	return nil
}

// queueName is what SQS takes; .fifo counts as five of the 80.
var queueName = regexp.MustCompile(`^([A-Za-z0-9_-]{1,80}|[A-Za-z0-9_-]{1,75}\.fifo)$`)

// OptionsError is a mistake in Options, all of them together, before anything was started.
type OptionsError struct{ error }

// Unwrap gives the mistakes.
func (e OptionsError) Unwrap() error { return e.error }

// absolute resolves a path now, so that a later change of the working directory does not move it.
func absolute(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("resolving %s: %w", path, err)
	}
	if err := os.MkdirAll(filepath.Dir(abs), 0o755); err != nil {
		return "", fmt.Errorf("making the folder of %s: %w", path, err)
	}
	return abs, nil
}
