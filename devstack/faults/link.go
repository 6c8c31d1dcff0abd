package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/Shopify/toxiproxy/v2/toxics"
	"github.com/rs/zerolog"

	"github.com/outflowhq/outflow/devstack/ports"
)

// Link is the way from Outflow's programs to one part. Several faults may stand
// on it at once; Heal ends them all, except that a deaf connection stays deaf.
type Link struct {
	Name string

	proxy *toxiproxy.Proxy
	deaf  *deafness
}

// linkTries is how many ports NewLink tries: a program that chooses its port otherwise may have taken one
// since it was found free.
const linkTries = 5

// NewLink listens on a loopback port and leads to upstream.
func NewLink(name, upstream string) (*Link, error) {
	var taken error
	for range linkTries {
		port, err := ports.Free()
		if err != nil {
			return nil, fmt.Errorf("choosing a port for the link to %s: %w", name, err)
		}
		l, err := openLink(name, upstream, port)
		if !errors.Is(err, syscall.EADDRINUSE) {
			return l, err
		}
		taken = err
	}
	return nil, taken
}

func openLink(name, upstream string, port int) (*Link, error) {
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	l := &Link{Name: name, proxy: toxiproxy.NewProxy(server, name, ports.Address(port), upstream), deaf: newDeafness()}
	for _, direction := range directions {
		if err := l.add("deaf", direction, map[string]any{"id": l.deaf.id}); err != nil {
			return nil, err
		}
	}
	if err := l.proxy.Start(); err != nil {
		return nil, fmt.Errorf("opening the link to %s: %w", name, err)
	}
	return l, nil
}

var directions = []string{"upstream", "downstream"}

func (l *Link) add(kind, direction string, attributes map[string]any) error {
	body, err := json.Marshal(map[string]any{"type": kind, "stream": direction, "attributes": attributes})
	if err != nil {
		return fmt.Errorf("describing the fault %s: %w", kind, err)
	}
	if _, err := l.proxy.Toxics.AddToxicJson(strings.NewReader(string(body))); err != nil {
		return fmt.Errorf("making the link to %s %s: %w", l.Name, kind, err)
	}
	return nil
}

// Address is where programs connect to.
func (l *Link) Address() string { return l.proxy.Listen }

// Cut closes every connection and refuses new ones, until Heal.
func (l *Link) Cut() error { l.proxy.Stop(); return nil }

// Slow delays what the part answers, give or take a quarter, until Heal.
func (l *Link) Slow(by time.Duration) error {
	return l.add("latency", "downstream", map[string]any{"latency": by.Milliseconds(), "jitter": by.Milliseconds() / 4})
}

// Reset resets each connection as soon as the part answers something, so that
// the part has acted and nobody hears of it, until Heal.
func (l *Link) Reset() error { return l.add("reset_peer", "downstream", nil) }

// Swallow lets connections be made and lose every byte, until Heal closes them.
func (l *Link) Swallow() error {
	for _, direction := range directions {
		if err := l.add("timeout", direction, map[string]any{"timeout": 0}); err != nil {
			return err
		}
	}
	return nil
}

// Deafen makes the connections of this moment half open for good: each end goes
// on, no byte and no close gets through any more. New connections are sound.
func (l *Link) Deafen() error { l.deaf.begin(); return nil }

// Heal ends every fault but Deafen's.
func (l *Link) Heal() error {
	for _, t := range l.proxy.Toxics.GetToxicArray() {
		toxic := t.(*toxics.ToxicWrapper)
		if toxic.Type == "deaf" {
			continue
		}
		if err := l.proxy.Toxics.RemoveToxic(context.Background(), toxic.Name); err != nil {
			return fmt.Errorf("healing the link to %s: %w", l.Name, err)
		}
	}
	if err := l.proxy.Start(); err != nil && !errors.Is(err, toxiproxy.ErrProxyAlreadyStarted) {
		return fmt.Errorf("opening the link to %s again: %w", l.Name, err)
	}
	return nil
}

// Close ends the link for good.
func (l *Link) Close() {
	l.deaf.end()
	l.proxy.Stop()
}
