package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"syscall"

	"github.com/outflowhq/outflow/publish/webhook"
)

const (
	// settingWebhookSecret is the one setting whose value no error repeats.
	settingWebhookSecret      = "OUTFLOW_WEBHOOK_SECRET"
	settingWebhookSecretsFile = "OUTFLOW_WEBHOOK_SECRETS_FILE"
	settingWebhookHeadersFile = "OUTFLOW_WEBHOOK_HEADERS_FILE"
	settingWebhookNetworks    = "OUTFLOW_WEBHOOK_NETWORKS"
)

// Webhooks reads the webhooks' settings alone, for an operator's command.
func Webhooks(getenv func(string) string) (webhook.Options, error) {
	getenv = orUnset(getenv)
	var c Config
	var errs []error
	for _, s := range Settings {
		if value := getenv(s.Name); value != "" && strings.HasPrefix(s.Name, "OUTFLOW_WEBHOOK_") {
			if err := s.set(&c, value); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w%s", s.Name, err, got(s.Name, value)))
			}
		}
	}
	if err := errors.Join(append(errs, joinWebhooks(&c, getenv))...); err != nil {
		return webhook.Options{}, err
	}
	return c.Webhook, nil
}

func setWebhookHosts(c *Config, value string) (err error) {
	c.Webhook.Hosts, err = webhook.ParseHosts(value)
	return err
}

func setWebhookSecret(c *Config, value string) (err error) {
	c.webhookSecrets.Default, err = webhook.ParseSecrets(value)
	return err
}

func setWebhookSecretsFile(c *Config, value string) error {
	file, err := rereadFile(settingWebhookSecretsFile, value, webhook.ReadSecrets)
	if err != nil {
		return err
	}
	c.secretsFile = file
	c.webhookSecrets.Hosts = file.get()
	return nil
}

func setWebhookHeadersFile(c *Config, value string) error {
	file, err := rereadFile("OUTFLOW_WEBHOOK_HEADERS_FILE", value, webhook.ReadHeaders)
	if err != nil {
		return err
	}
	c.headersFile = file
	c.Webhook.Headers = func(host string) []webhook.Header { return file.get().For(host) }
	return nil
}

func setWebhookNetworks(c *Config, value string) (err error) {
	c.Webhook.Networks, err = webhook.ParseNetworks(value)
	return err
}

// rereadFile is a value that parse reads from a file, again and again.
func rereadFile[T any](setting, name string, parse func(io.Reader) (T, error)) (*reread[T], error) {
	read := readFile // the first time, as it is
	file, err := newReread(setting, func() (value T, err error) {
		text, err := read(name)
		if err != nil {
			return value, err
		}
		if value, err = parse(bytes.NewReader(text)); err != nil {
			return value, fmt.Errorf("reading the file: %w", reason(err))
		}
		return value, nil
	})
	read = settledFile
	return file, err
}

type (
	secretsFile = reread[map[string][]webhook.Secret]
	headersFile = reread[webhook.Headers]
)

// secrets are those of a host, as the file has them now.
func (c *Config) secrets() func(host string) []webhook.Secret {
	if c.secretsFile == nil {
		return c.webhookSecrets.For
	}
	file, otherwise := c.secretsFile, c.webhookSecrets.Default
	return func(host string) []webhook.Secret {
		return webhook.Secrets{Hosts: file.get(), Default: otherwise}.For(host)
	}
}

// reason is an error about a file without the file's name.
func reason(err error) error {
	var path *fs.PathError
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno):
		return errno
	case errors.As(err, &path):
		return path.Err
	}
	return err
}

func setWebhookInsecureLoopback(c *Config, value string) error {
	if value != "on" && value != "off" {
		return errors.New("wants on or off")
	}
	c.Webhook.InsecureLoopback = value == "on"
	return nil
}

// joinWebhooks puts hosts and secrets together, once both are read.
func joinWebhooks(c *Config, getenv func(string) string) error {
	c.Webhook.Secrets = c.secrets()
	alone := ""
	switch {
	case c.Webhook.Hosts.Any() && getenv(settingWebhookSecret) == "" && getenv(settingWebhookSecretsFile) == "":
		return fmt.Errorf("OUTFLOW_WEBHOOK_HOSTS: wants %s or %s beside it: every request is signed", settingWebhookSecretsFile, settingWebhookSecret)
	case getenv("OUTFLOW_WEBHOOK_HOSTS") != "": // what else is wrong with it is told
		return nil
	case c.Webhook.InsecureLoopback:
		alone = "OUTFLOW_WEBHOOK_INSECURE_LOOPBACK"
	case len(c.webhookSecrets.Default) > 0:
		alone = settingWebhookSecret
	case len(c.webhookSecrets.Hosts) > 0:
		alone = settingWebhookSecretsFile
	case c.Webhook.Headers != nil:
		alone = settingWebhookHeadersFile
	case c.Webhook.Networks.Any():
		alone = settingWebhookNetworks
	default:
		return nil
	}
	return fmt.Errorf("%s: wants OUTFLOW_WEBHOOK_HOSTS beside it: nothing is sent to a host that it does not name", alone)
}
