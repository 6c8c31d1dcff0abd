package stack

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/outflowhq/outflow/devstack/queues"
	"github.com/outflowhq/outflow/devstack/temporal"
)

// fakeKey is no secret: it keeps AWS's SDKs from looking for real ones.
const fakeKey = "devstack"

// Env is the environment in which Outflow finds the stack, as KEY=value. The DEVSTACK_ names say
// the same under names that a person's own settings never have: tests read only those.
func (s *Stack) Env() []string {
	db, endpoint, ui := s.DatabaseURL(), s.QueueEndpoint(), s.UIURL()
	env := []string{
		"DATABASE_URL=" + db,
		"TEMPORAL_ADDRESS=" + s.temporalAddress, "TEMPORAL_NAMESPACE=" + temporal.Namespace,
		"AWS_ENDPOINT_URL_SQS=" + endpoint, "AWS_ENDPOINT_URL_SNS=" + endpoint, "AWS_ENDPOINT_URL_STS=" + endpoint,
		"AWS_REGION=" + queues.Region, "AWS_DEFAULT_REGION=" + queues.Region, // the AWS CLI reads the latter
		"AWS_ACCESS_KEY_ID=" + fakeKey, "AWS_SECRET_ACCESS_KEY=" + fakeKey,
		"OUTFLOW_TEMPORAL_UI=" + ui, "OUTFLOW_TRIGGER=wal",
		"DEVSTACK_DATABASE_URL=" + db, "DEVSTACK_TEMPORAL_ADDRESS=" + s.temporalAddress,
		"DEVSTACK_SQS_ENDPOINT=" + endpoint, "DEVSTACK_TEMPORAL_UI=" + ui,
	}
	if s.rabbitmq != nil {
		env = append(env, "AMQP_URL="+s.rabbitmq.URL(), "DEVSTACK_AMQP_URL="+s.rabbitmq.URL(),
			"DEVSTACK_RABBITMQCTL="+s.rabbitmq.Control())
	}
	return env
}

// DatabaseURL leads to the application's database.
func (s *Stack) DatabaseURL() string { return s.databaseURL }

// TemporalAddress is Temporal's gRPC host and port.
func (s *Stack) TemporalAddress() string { return s.temporalAddress }

// UIURL is the Web UI's address in a browser.
func (s *Stack) UIURL() string { return s.ui.URL() }

// AMQPURL leads to RabbitMQ; "" where there is none.
func (s *Stack) AMQPURL() string {
	if s.rabbitmq == nil {
		return ""
	}
	return s.rabbitmq.URL()
}

// QueueEndpoint is the endpoint of SQS and SNS.
func (s *Stack) QueueEndpoint() string { return s.queues.URL() }

// ChildEnv is ambient without the settings of the systems that the stack stands for, and with the
// stack's own.
func (s *Stack) ChildEnv(ambient []string) []string {
	var env []string
	for _, kv := range ambient {
		if !isAmbientSetting(kv) {
			env = append(env, kv)
		}
	}
	return append(env, s.Env()...)
}

func isAmbientSetting(kv string) bool {
	name, _, _ := strings.Cut(kv, "=")
	for _, prefix := range []string{"PG", "AWS_", "TEMPORAL_", "DEVSTACK_", "DATABASE_URL", "OUTFLOW_TEMPORAL_UI",
		"OUTFLOW_TRIGGER", "AMQP_URL", "RABBITMQ_"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// writeEnv writes the environment in a form that a POSIX shell reads.
func (s *Stack) writeEnv(path string) error {
	path, err := absolute(path)
	if err != nil {
		return err
	}
	var b strings.Builder
	b.WriteString("# Written by devstack; gone when it ends. Use: set -a; . " + shellQuote(path) + "; set +a\n")
	for _, kv := range s.Env() {
		name, value, _ := strings.Cut(kv, "=")
		b.WriteString(name + "=" + shellQuote(value) + "\n")
	}
	if err := replaceFile(path, []byte(b.String())); err != nil {
		return fmt.Errorf("writing the env file: %w", err)
	}
	s.envFile = path
	return nil
}

// replaceFile writes the file at once: nobody sees half of it.
func replaceFile(path string, content []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(content)
	if closeErr := tmp.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	return err
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// WriteTable prints what runs where.
func (s *Stack) WriteTable(w io.Writer) error {
	data := s.folder.path
	if s.folder.ephemeral {
		data += " (removed at the end)"
	}
	rows := [][2]string{
		{"Postgres", s.DatabaseURL()}, {"Temporal", s.temporalAddress + " (namespace " + temporal.Namespace + ")"},
		{"Temporal Web UI", s.UIURL()}, {"SQS and SNS", s.QueueEndpoint()},
		{"Data", data},
	}
	if len(s.options.Queues) > 0 {
		rows = append(rows, [2]string{"Queues", strings.Join(s.options.Queues, ", ")})
	}
	rows = append(rows, [2]string{"Another queue", "curl -d 'Action=CreateQueue&QueueName=NAME' " + s.QueueEndpoint()})
	if s.rabbitmq != nil {
		rows = append(rows, [2]string{"RabbitMQ", s.rabbitmq.URL()}, [2]string{"rabbitmqctl", s.rabbitmq.Control()})
	}
	if s.postgres != nil && filepath.Dir(s.folder.postgres) != s.folder.path {
		rows = append(rows, [2]string{"Postgres's data", s.folder.postgres})
	}
	rows = append(rows, [2]string{"Logs", filepath.Dir(s.folder.logs("postgres"))})
	if s.envFile != "" {
		rows = append(rows, [2]string{"Environment", s.envFile})
	}
	for _, moved := range s.moved {
		rows = append(rows, [2]string{"Another port", moved})
	}
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	for _, row := range rows {
		fmt.Fprintf(t, "%s\t%s\n", row[0], row[1])
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("printing the table: %w", err)
	}
	return nil
}
