// Package brokers has the one list of the brokers that Outflow's programs publish to.
//
// The invariant: a program publishes to each broker of the list, reads its settings and
// looks its destinations up, and nothing outside this package names a broker. A new one
// is a folder under publish/, a file here, and one line in registrations.
package brokers

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/settings"
	"github.com/outflowhq/outflow/publish"
)

// registrations returns the list, with no setting read yet.
func registrations() []registration {
	return []registration{
		&queues{},
		&topics{},
		&exchanges{},
		&webhooks{},
		&workflows{},
	}
}

// registration is a broker's settings, on the way to a Broker.
type registration interface {
	// settings are the broker's variables, in the order of help. Each sets a field of the
	// registration.
	settings() []settings.Setting
	// validate is called once all are set, and reports those that don't fit together.
	validate(getenv func(string) string) error
	// open makes the Broker. Its error is about variables or files of the broker's client
	// library, such as AWS's.
	open(ctx context.Context, getenv func(string) string) (Broker, error)
	// schemes are those of the broker's destinations.
	schemes() []string
}

// Broker is a broker as its settings have it.
type Broker struct {
	// Schemes are those of its destinations.
	Schemes []string
	// Publisher is nil where there is an error.
	Publisher publish.Publisher
	// Timeout is the longest time that a call to the broker may take.
	Timeout time.Duration
	// Waiting says, for the log, which messages wait for a missing setting; "" where none does.
	Waiting string
	// Doctor has the words of "outflow doctor" about the broker's destinations.
	Doctor Doctor
	// SettingsErr joins the mistakes in Outflow's own variables.
	SettingsErr error
	// ClientErr is why the broker's client can't be made: variables or files of its own
	// library are wrong.
	ClientErr error

	warnTo func(*slog.Logger)
}

// Doctor has the words of "outflow doctor" about destinations that it looked up.
type Doctor struct {
	// Allowed is the line about destinations that no setting keeps messages from, with their
	// number and scheme, such as "%d hosts of %s:// are allowed". Where it is empty, each
	// destination has a line of its own.
	Allowed string
	// Refused is the line about destinations that a setting keeps messages from, likewise. It
	// is set where Allowed is.
	Refused string
	// Remedy is what an operator can do about a look-up's error.
	Remedy func(error) string
	// Create is the command that makes a destination which does not exist. It may be nil.
	Create func(destination string) string
}

// Advice is what an operator can do about a look-up's error of a destination.
func (d Doctor) Advice(destination string, err error) string {
	if errors.Is(err, outflow.ErrNoDestination) && d.Create != nil {
		if command := d.Create(destination); command != "" {
			return command + ", or outflow redirect its messages"
		}
	}
	return d.Remedy(err)
}

// WarnTo gives the broker a log for its warnings while the program runs.
func (b Broker) WarnTo(log *slog.Logger) {
	if b.warnTo != nil {
		b.warnTo(log)
	}
}

// Settings are the variables of all brokers, in the order of help. Their Set is not for use: Load
// reads into registrations of its own.
func Settings() (all []settings.Setting) {
	for _, r := range registrations() {
		all = append(all, r.settings()...)
	}
	return all
}

// Load reads the settings of every broker. A broker whose settings are wrong is among the
// results, with its errors and without a publisher.
func Load(ctx context.Context, getenv func(string) string) (all []Broker) {
	for _, r := range registrations() {
		all = append(all, load(ctx, r, getenv))
	}
	return all
}

func load(ctx context.Context, r registration, getenv func(string) string) Broker {
	errs := settings.Read(r.settings(), getenv)
	errs = append(errs, r.validate(settings.WithoutDefaults(getenv, r.settings())))
	b, err := r.open(ctx, getenv)
	b.Schemes, b.SettingsErr, b.ClientErr = r.schemes(), errors.Join(errs...), err
	if b.SettingsErr != nil || b.ClientErr != nil {
		b.Publisher = nil
	}
	return b
}

// Problems joins what is wrong with the settings of the brokers, or is nil. Each line is there
// once: brokers may share settings, as SQS and SNS do.
func Problems(all []Broker) error {
	var lines []error
	reported := map[string]bool{}
	for _, b := range all {
		for _, err := range []error{b.SettingsErr, b.ClientErr} {
			if err == nil {
				continue
			}
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if !reported[line] {
					lines, reported[line] = append(lines, errors.New(line)), true
				}
			}
		}
	}
	return errors.Join(lines...)
}

// Publishers are those of the brokers that have one.
func Publishers(all []Broker) (publishers []publish.Publisher) {
	for _, b := range all {
		if b.Publisher != nil {
			publishers = append(publishers, b.Publisher)
		}
	}
	return publishers
}

// Close ends the connections that the brokers' publishers hold.
func Close(all []Broker) {
	for _, p := range Publishers(all) {
		if c, ok := p.(interface{ Close() }); ok {
			c.Close()
		}
	}
}
