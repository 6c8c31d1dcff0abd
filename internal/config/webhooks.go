package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
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
	return readFile(value, func(file io.Reader) (err error) {
		c.webhookSecrets.Hosts, err = webhook.ReadSecrets(file)
		return err
	})
}

func setWebhookHeadersFile(c *Config, value string) error {
	return readFile(value, func(file io.Reader) error {
		headers, err := webhook.ReadHeaders(file)
		if err == nil {
			c.Webhook.Headers = headers.For
		}
		return err
	})
}

func setWebhookNetworks(c *Config, value string) (err error) {
	c.Webhook.Networks, err = webhook.ParseNetworks(value)
	return err
}

func readFile(name string, read func(io.Reader) error) error {
	file, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("wants a file that can be read: %w", reason(err))
	}
	defer file.Close()
	if err := read(file); err != nil {
		return fmt.Errorf("reading the file: %w", reason(err))
	}
	return nil
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
	c.Webhook.Secrets = c.webhookSecrets.For
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
