package brokers

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/settings"
	"github.com/outflowhq/outflow/publish/rabbitmq"
)

// RabbitMQ's settings.
const (
	rabbitURL     = "AMQP_URL"
	rabbitURLFile = "OUTFLOW_RABBITMQ_URL_FILE"
	rabbitTimeout = "OUTFLOW_RABBITMQ_TIMEOUT"
)

// exchanges is the registration of RabbitMQ.
type exchanges struct {
	timeout time.Duration
	// file has the address; nil where no setting names one.
	file *settings.Reloaded[rabbitmq.Address]
}

var _ registration = (*exchanges)(nil)

func (*exchanges) schemes() []string { return []string{outflow.SchemeRabbitMQ} }

func (x *exchanges) settings() []settings.Setting {
	return []settings.Setting{
		{Name: rabbitURL, Meaning: "RabbitMQ's address, such as amqps://user:password@host/vhost"},
		{
			Name: rabbitURLFile, Default: "none",
			Meaning: "file with RabbitMQ's address in place of " + rabbitURL + "; read again when it changes",
			Set: func(value string) (err error) {
				x.file, err = settings.ReloadFile(rabbitURLFile, value, readAddress)
				return err
			},
			Secret: func(string) bool { return true }, // an address may stand in the wrong place
		},
		{
			Name: rabbitTimeout, Default: rabbitmq.DefaultTimeout.String(),
			Meaning: "how long RabbitMQ has to confirm a durable attempt, 1s to 30s; a fast path waits 2.5 s at most",
			Set:     settings.Duration(&x.timeout, time.Second, outflow.MaxCallTime),
		},
	}
}

func readAddress(file io.Reader) (rabbitmq.Address, error) {
	text, err := io.ReadAll(file)
	if err != nil {
		return rabbitmq.Address{}, err
	}
	return rabbitmq.ParseAddress(string(bytes.TrimSpace(text)))
}

func (*exchanges) validate(getenv func(string) string) error {
	if getenv(rabbitURL) != "" && getenv(rabbitURLFile) != "" {
		return fmt.Errorf("%s: wants to be the only one: %s is set, too", rabbitURLFile, rabbitURL)
	}
	return nil
}

// open makes no connection: the publisher does that for its first message.
func (x *exchanges) open(_ context.Context, getenv func(string) string) (Broker, error) {
	if x.file != nil {
		b := RabbitMQ(x.file.Get, x.timeout)
		ofPublisher := b.warnTo
		b.warnTo = func(log *slog.Logger) {
			x.file.WarnTo(log)
			ofPublisher(log)
		}
		return b, nil
	}
	url := getenv(rabbitURL)
	if url == "" {
		return Broker{
			Waiting: "no RabbitMQ is configured (" + rabbitURL + "): nothing is published to rabbitmq:// from here",
		}, nil
	}
	address, err := rabbitmq.ParseAddress(url)
	if err != nil {
		return Broker{}, fmt.Errorf("%s: %w", rabbitURL, err)
	}
	return RabbitMQ(func() rabbitmq.Address { return address }, x.timeout), nil
}

// RabbitMQ is the broker of exchanges at an address, which may change. A timeout of 0 means the
// default.
func RabbitMQ(current func() rabbitmq.Address, timeout time.Duration) Broker {
	p := rabbitmq.New(rabbitmq.Address{}, rabbitmq.WithCurrentAddress(current), rabbitmq.WithTimeout(timeout))
	return Broker{
		Schemes:   []string{outflow.SchemeRabbitMQ},
		Publisher: p,
		Timeout:   cmp.Or(timeout, rabbitmq.DefaultTimeout),
		warnTo:    p.WarnTo,
		Doctor: Doctor{
			Remedy: exchangeRemedy,
			Create: func(destination string) string { return current().Commands(destination) },
		},
	}
}

func exchangeRemedy(err error) string {
	if outflow.IsPermanent(err) {
		return "outflow redirect its messages"
	}
	return "check " + rabbitURL + ", the network and the broker"
}
