// Package settings reads variables of the environment, for internal/config and for each
// broker's registration in internal/brokers.
//
// The invariant: every mistake is reported with the variable's name and with what the
// variable wants. No error repeats a secret.
package settings

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/outflowhq/outflow/internal/text"
)

// Setting is one variable, and where its value goes.
type Setting struct {
	Name, Default, Meaning string
	// Set reads a value that is not empty. Its error follows the name and says what the variable
	// wants. It is nil where a client library reads the variable by itself.
	Set func(value string) error
	// Secret reports whether no error may repeat this value. nil: any may be repeated.
	Secret func(value string) bool
}

// Read sets each setting that the environment has, and returns every mistake.
func Read(all []Setting, getenv func(string) string) []error {
	getenv = WithoutDefaults(getenv, all)
	var errs []error
	for _, s := range all {
		value := getenv(s.Name)
		if value == "" || s.Set == nil {
			continue
		}
		if err := s.Set(value); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w%s", s.Name, err, s.got(value)))
		}
	}
	return errs
}

// WithoutDefaults returns the environment without settings whose value is "none" or "off" where
// help shows that as the default: users may set it explicitly.
func WithoutDefaults(getenv func(string) string, all []Setting) func(string) string {
	return func(name string) string {
		value := getenv(name)
		for _, s := range all {
			if s.Name == name && value == s.Default && (value == "none" || value == "off") {
				return ""
			}
		}
		return value
	}
}

func (s Setting) got(value string) string {
	if s.Secret != nil && s.Secret(value) {
		return ""
	}
	return Got(value)
}

// Got ends an error with the value, except for a webhook's secret in the wrong place.
func Got(value string) string {
	if strings.Contains(value, "whsec_") {
		return ""
	}
	return " (got " + Quote(value) + ")"
}

// Quote repeats a value, and of a long one the beginning.
func Quote(value string) string {
	const limit = 100 // bytes
	if len(value) <= limit {
		return strconv.Quote(value)
	}
	return fmt.Sprintf("%q… of %d bytes", value[:limit], len(value))
}

// Brief makes a library's text one line of at most 400 characters: it may repeat any value.
func Brief(message string) string {
	const limit = 400 // characters
	return text.Limit(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(message, "\uFFFD")), limit)
}

// Duration sets *into to a duration from low to high.
func Duration(into *time.Duration, low, high time.Duration) func(string) error {
	return func(value string) error {
		d, err := time.ParseDuration(value)
		if err != nil || d < low || d > high {
			return fmt.Errorf("wants a duration from %s to %s", low, high)
		}
		*into = d
		return nil
	}
}

// OnOff sets *into to true for "on" and to false for "off".
func OnOff(into *bool) func(string) error {
	return func(value string) error {
		if value != "on" && value != "off" {
			return errors.New("wants on or off")
		}
		*into = value == "on"
		return nil
	}
}

// plainHost is a name or an address; net.SplitHostPort has taken the brackets off.
var plainHost = regexp.MustCompile(`^[A-Za-z0-9.:_%-]{0,253}$`)

// IsHostPort reports whether value is an address to listen on or to connect to:
// host:port, or :port for this machine.
func IsHostPort(value string) bool {
	host, port, err := net.SplitHostPort(value)
	n, notNumber := strconv.ParseUint(port, 10, 16)
	return err == nil && notNumber == nil && n > 0 && plainHost.MatchString(host)
}
