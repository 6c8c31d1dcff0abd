package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/outflowhq/outflow/publish/webhook"
)

const (
	// settingWebhookSecret is the one setting whose value no error repeats.
	settingWebhookSecret      = "OUTFLOW_WEBHOOK_SECRET"
	settingWebhookSecretsFile = "OUTFLOW_WEBHOOK_SECRETS_FILE"
)

func setWebhookHosts(c *Config, value string) (err error) {
	c.Webhook.Hosts, err = webhook.ParseHosts(value)
	return err
}

func setWebhookSecret(c *Config, value string) (err error) {
	c.webhookSecrets.Default, err = webhook.ParseSecrets(value)
	return err
}

func setWebhookSecretsFile(c *Config, value string) error {
	read := readFile // the first time, as it is
	file, err := newReread(settingWebhookSecretsFile, func() (map[string][]webhook.Secret, error) {
		text, err := read(value)
		if err != nil {
			return nil, err
		}
		hosts, err := webhook.ReadSecrets(bytes.NewReader(text))
		if err != nil {
			return nil, fmt.Errorf("reading the file: %w", reason(err))
		}
		return hosts, nil
	})
	if err != nil {
		return err
	}
	read = settledFile
	c.secretsFile, c.webhookSecrets.Hosts = file, file.get()
	return nil
}

type secretsFile = reread[map[string][]webhook.Secret]

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
	default:
		return nil
	}
	return fmt.Errorf("%s: wants OUTFLOW_WEBHOOK_HOSTS beside it: nothing is sent to a host that it does not name", alone)
}
