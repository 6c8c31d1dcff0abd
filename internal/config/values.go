package config

import (
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/settings"
	"github.com/outflowhq/outflow/scanner/trigger"
)

// A workflow ID goes into URLs and shell commands.
var plainName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`)

func setName(into *string) func(string) error {
	return func(value string) error {
		if !plainName.MatchString(value) {
			return errors.New(`wants 1 to 100 letters, digits or any of ". _ -", the first a letter or digit`)
		}
		*into = value
		return nil
	}
}

// maxGrace is a week: a destination that is missing for longer is a mistake that waiting does not fix.
const maxGrace = 7 * 24 * time.Hour

// setGrace sets *into as scanner.Options.MissingGrace has it: less than zero stands for none.
func setGrace(into *time.Duration) func(string) error {
	return func(value string) error {
		if d, err := time.ParseDuration(value); err == nil && d == 0 {
			*into = -1
			return nil
		}
		if settings.Duration(into, time.Second, maxGrace)(value) != nil {
			return fmt.Errorf("wants 0, or a duration from %s to %s", time.Second, maxGrace)
		}
		return nil
	}
}

func (c *Config) setOrderDead(value string) error {
	if value != "block" && value != "pass" {
		return errors.New("wants block or pass")
	}
	c.PassDead = value == "pass"
	return nil
}

func (c *Config) setTrigger(value string) error {
	c.Trigger = trigger.Kind(value)
	if !slices.Contains(trigger.Kinds(), c.Trigger) {
		return errors.New("wants poll, listen or wal")
	}
	return nil
}

func setKeep(into *outflow.Keep) func(string) error {
	return func(value string) error { return into.UnmarshalText([]byte(value)) }
}

// maxInFlight is the SDK's default number of workflow-task slots; a start
// beyond it would not be eager.
const maxInFlight = 1000

func setCount(into *int) func(string) error {
	return func(value string) error {
		n, err := strconv.Atoi(value)
		if err != nil || n < 1 || n > maxInFlight {
			return fmt.Errorf("wants a whole number from 1 to %d", maxInFlight)
		}
		*into = n
		return nil
	}
}

const (
	// DefaultStreams is the default of Config.Streams; each needs some connections, and they share 64 MiB.
	DefaultStreams = 4
	maxStreams     = 100
	// maxStreamAbove bounds what a starter counts at a look, ten times a second at most.
	maxStreamAbove = 100_000
)

func (c *Config) setStreams(value string) error {
	n, err := strconv.Atoi(value)
	if err != nil || n < 0 || n > maxStreams {
		return fmt.Errorf("wants a whole number from 0 to %d", maxStreams)
	}
	c.Streams = n
	return nil
}

func (c *Config) setStreamAbove(value string) (err error) {
	c.Scanner.StreamAbove, err = ParseStreamAbove(value)
	return err
}

// ParseStreamAbove reads above how many due messages a stream begins. Off is 0.
func ParseStreamAbove(value string) (int, error) {
	if value == "off" {
		return 0, nil
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 || n > maxStreamAbove {
		return 0, fmt.Errorf("wants off, or a whole number from 1 to %d", maxStreamAbove)
	}
	return n, nil
}

func (c *Config) setHealthAddress(value string) error {
	if !settings.IsHostPort(value) {
		return errors.New("wants host:port or :port, the port from 1 to 65535, such as :8086")
	}
	c.HealthAddress = value
	return nil
}

func (c *Config) setLogLevel(value string) error {
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		if strings.EqualFold(value, level.String()) { // no "info+4", which slog itself accepts
			c.LogLevel = level
			return nil
		}
	}
	return errors.New("wants debug, info, warn or error")
}

func (c *Config) setLogFormat(value string) error {
	if value != "text" && value != "json" {
		return errors.New("wants text or json")
	}
	c.LogJSON = value == "json"
	return nil
}
