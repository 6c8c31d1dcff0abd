package brokers

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/settings"
	"github.com/outflowhq/outflow/publish/webhook"
)

// The webhooks' settings.
const (
	webhookTimeout     = "OUTFLOW_WEBHOOK_TIMEOUT"
	webhookHosts       = "OUTFLOW_WEBHOOK_HOSTS"
	webhookSecretsFile = "OUTFLOW_WEBHOOK_SECRETS_FILE"
	webhookSecret      = "OUTFLOW_WEBHOOK_SECRET"
	webhookHeadersFile = "OUTFLOW_WEBHOOK_HEADERS_FILE"
	webhookNetworks    = "OUTFLOW_WEBHOOK_NETWORKS"
	webhookLoopback    = "OUTFLOW_WEBHOOK_INSECURE_LOOPBACK"
)

// webhooks is the registration of https destinations.
type webhooks struct {
	options webhook.Options
	secret  []webhook.Secret
	// The files are nil where no setting names them.
	secrets *settings.Reloaded[map[string][]webhook.Secret]
	headers *settings.Reloaded[webhook.Headers]
}

var _ registration = (*webhooks)(nil)

func (*webhooks) schemes() []string { return []string{outflow.SchemeHTTPS, outflow.SchemeHTTP} }

func (w *webhooks) settings() []settings.Setting {
	return []settings.Setting{
		{
			Name: webhookTimeout, Default: webhook.DefaultTimeout.String(),
			Meaning: "how long a receiver has to answer a durable attempt or a callback, 1s to 30s; " +
				"a fast path waits 2.5 s at most",
			Set: settings.Duration(&w.options.Timeout, time.Second, outflow.MaxCallTime),
		},
		{
			Name: webhookHosts, Default: "none",
			Meaning: "hosts that https destinations may name, such as hooks.example.com,*.example.org",
			Set:     func(value string) (err error) { w.options.Hosts, err = webhook.ParseHosts(value); return err },
		},
		{
			Name: webhookSecretsFile, Default: "none",
			Meaning: "file with a line for each host: host whsec_… [whsec_…], all of which sign",
			Set: func(value string) (err error) {
				w.secrets, err = settings.ReloadFile(webhookSecretsFile, value, webhook.ReadSecrets)
				return err
			},
		},
		{
			Name: webhookSecret, Default: "none",
			Meaning: "whsec_… for every host that has none of its own; several with spaces between them",
			Set:     func(value string) (err error) { w.secret, err = webhook.ParseSecrets(value); return err },
			Secret:  func(string) bool { return true },
		},
		{
			Name: webhookHeadersFile, Default: "none",
			Meaning: "file with a line for each header that goes with every request to a host: host header-name: value",
			Set: func(value string) (err error) {
				w.headers, err = settings.ReloadFile(webhookHeadersFile, value, webhook.ReadHeaders)
				return err
			},
			Secret: func(value string) bool { return strings.Contains(value, ": ") }, // a line of the file
		},
		{
			Name: webhookNetworks, Default: "none",
			Meaning: "private networks that webhooks may be sent into, such as 10.1.0.0/16,fd00:1::/32",
			Set: func(value string) (err error) {
				w.options.Networks,
					err = webhook.ParseNetworks(value)
				return err
			},
		},
		{
			Name: webhookLoopback, Default: "off",
			Meaning: "on lets destinations and callbacks on this machine through, http:// too, for development",
			Set:     settings.OnOff(&w.options.InsecureLoopback),
		},
	}
}

// validate refuses half of the settings: without the other half, nothing would be sent.
func (w *webhooks) validate(getenv func(string) string) error {
	incomplete := ""
	switch {
	case w.options.Hosts.Any() && getenv(webhookSecret) == "" && getenv(webhookSecretsFile) == "":
		return fmt.Errorf("%s: wants %s or %s beside it: every request is signed", webhookHosts, webhookSecretsFile,
			webhookSecret)
	case getenv(webhookHosts) != "": // Set has reported other mistakes
		return nil
	case w.options.InsecureLoopback:
		incomplete = webhookLoopback
	case len(w.secret) > 0:
		incomplete = webhookSecret
	case w.secrets != nil && len(w.secrets.Get()) > 0:
		incomplete = webhookSecretsFile
	case w.headers != nil:
		incomplete = webhookHeadersFile
	case w.options.Networks.Any():
		incomplete = webhookNetworks
	default:
		return nil
	}
	return fmt.Errorf("%s: wants %s beside it: nothing is sent to a host that it does not name", incomplete,
		webhookHosts)
}

func (w *webhooks) open(context.Context, func(string) string) (Broker, error) {
	b := Webhooks(w.publisherOptions())
	b.warnTo = func(log *slog.Logger) {
		w.secrets.WarnTo(log)
		w.headers.WarnTo(log)
	}
	return b, nil
}

// publisherOptions are the options with the secrets and headers that the files have at
// the time of a request.
func (w *webhooks) publisherOptions() webhook.Options {
	o := w.options
	o.Secrets = webhook.Secrets{Default: w.secret}.For
	if w.secrets != nil {
		o.Secrets = func(host string) []webhook.Secret {
			return webhook.Secrets{Hosts: w.secrets.Get(), Default: w.secret}.For(host)
		}
	}
	if w.headers != nil {
		o.Headers = func(host string) []webhook.Header { return w.headers.Get().For(host) }
	}
	return o
}

// Webhooks is the broker of https destinations.
func Webhooks(o webhook.Options) Broker {
	b := Broker{
		Schemes:   []string{outflow.SchemeHTTPS, outflow.SchemeHTTP},
		Publisher: webhook.New(o),
		Timeout:   cmp.Or(o.Timeout, webhook.DefaultTimeout),
		Doctor: Doctor{
			Allowed: "%d hosts of %s:// are allowed, and have a secret",
			Refused: "%d more hosts of %s:// that are not allowed, or have no secret",
			Remedy: func(error) string {
				return "give the daemons the settings that the text names, and this command the same"
			},
		},
	}
	if !o.Hosts.Any() {
		b.Waiting = "no host is allowed (" + webhookHosts + "): messages to https:// wait"
	}
	return b
}
