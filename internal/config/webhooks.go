package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/outflowhq/outflow/publish/webhook"
)

// settingWebhookSecret is the one setting whose value no error repeats.
const settingWebhookSecret = "OUTFLOW_WEBHOOK_SECRET"

func setWebhookHosts(c *Config, value string) (err error) {
	c.Webhook.Hosts, err = webhook.ParseHosts(value)
	return err
}

func setWebhookSecret(c *Config, value string) (err error) {
	c.webhookSecrets.Default, err = webhook.ParseSecrets(value)
	return err
}

func setWebhookSecretsFile(c *Config, value string) error {
	file, err := os.Open(value)
	if err != nil {
		return fmt.Errorf("wants a file that can be read: %w", reason(err))
	}
	defer file.Close()
	if c.webhookSecrets.Hosts, err = webhook.ReadSecrets(file); err != nil {
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
	if c.Webhook.Hosts.Any() && getenv(settingWebhookSecret) == "" && getenv("OUTFLOW_WEBHOOK_SECRETS_FILE") == "" {
		return errors.New("OUTFLOW_WEBHOOK_HOSTS: wants OUTFLOW_WEBHOOK_SECRETS_FILE or " + settingWebhookSecret + " beside it: every request is signed")
	}
	return nil
}
