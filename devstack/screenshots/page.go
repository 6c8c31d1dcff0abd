package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"
)

const (
	pageTimeout = 45 * time.Second
	lookEvery   = 100 * time.Millisecond
	// A picture of this width is read in a README without a click.
	width, height = 1400, 900
)

// page is a tab of the browser.
type page struct {
	browser *browser
	session string
	timeout time.Duration // of show
}

// newPage opens an empty tab, in which script runs before each page's own.
func (b *browser) newPage(ctx context.Context, script string) (*page, error) {
	var target struct{ TargetID string }
	if err := b.call(ctx, "", "Target.createTarget", map[string]any{"url": "about:blank"}, &target); err != nil {
		return nil, err
	}
	var attached struct{ SessionID string }
	if err := b.call(ctx, "", "Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true},
		&attached); err != nil {
		return nil, err
	}
	p := &page{browser: b, session: attached.SessionID, timeout: pageTimeout}
	for _, c := range []struct {
		method string
		params map[string]any
	}{
		{"Page.enable", nil},
		{"Page.addScriptToEvaluateOnNewDocument", map[string]any{"source": script}},
		{"Emulation.setTimezoneOverride", map[string]any{"timezoneId": "UTC"}},
	} {
		if err := p.call(ctx, c.method, c.params, nil); err != nil {
			return nil, err
		}
	}
	return p, p.resize(ctx, height)
}

func (p *page) call(ctx context.Context, method string, params map[string]any, result any) error {
	return p.browser.call(ctx, p.session, method, params, result)
}

func (p *page) resize(ctx context.Context, height int) error {
	return p.call(ctx, "Emulation.setDeviceMetricsOverride",
		map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false}, nil)
}

func (p *page) open(ctx context.Context, url string) error {
	var answer struct{ ErrorText string }
	if err := p.call(ctx, "Page.navigate", map[string]any{"url": url}, &answer); err != nil {
		return err
	}
	if answer.ErrorText != "" {
		return fmt.Errorf("opening %s: %s", url, answer.ErrorText)
	}
	return nil
}

// eval runs an expression in the page and reads its value.
func (p *page) eval(ctx context.Context, expression string, value any) error {
	var answer struct {
		Result           struct{ Value any }
		ExceptionDetails *struct{ Text string }
	}
	answer.Result.Value = value
	err := p.call(ctx, "Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true,
		"awaitPromise": true}, &answer)
	if err == nil && answer.ExceptionDetails != nil {
		err = fmt.Errorf("in the page: %s", answer.ExceptionDetails.Text)
	}
	return err
}

// text is what a reader of the page sees, with single spaces.
func (p *page) text(ctx context.Context) (string, error) {
	var text string
	err := p.eval(ctx, "document.body ? document.body.innerText : ''", &text)
	return strings.Join(strings.Fields(text), " "), err
}

// expect says what a page's text holds.
type expect struct {
	shows []string
	match *regexp.Regexp // where set
	hides []string       // is not there
}

func (e expect) unmet(text string) []string {
	var unmet []string
	for _, want := range e.shows {
		if !strings.Contains(text, want) {
			unmet = append(unmet, fmt.Sprintf("no %q", want))
		}
	}
	if e.match != nil && !e.match.MatchString(text) {
		unmet = append(unmet, fmt.Sprintf("nothing like %q", e.match))
	}
	for _, other := range e.hides {
		if strings.Contains(text, other) {
			unmet = append(unmet, fmt.Sprintf("%q, which does not belong there", other))
		}
	}
	return unmet
}

// show opens a page and waits until it meets e. The error says what was looked
// for and what the page had.
func (p *page) show(ctx context.Context, what, url string, e expect) error {
	if err := p.open(ctx, url); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	for deadline := time.Now().Add(p.timeout); ; time.Sleep(lookEvery) {
		text, err := p.text(ctx)
		var unmet []string
		if err == nil {
			unmet = e.unmet(text)
		}
		switch {
		case err == nil && len(unmet) == 0:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("%s: %w", what, context.Cause(ctx))
		case time.Now().Before(deadline):
		case err != nil:
			return fmt.Errorf("%s: %w", what, err)
		default:
			return fmt.Errorf("%s: after %s the page %s has %s. All that it says: %s", what, p.timeout, url,
				strings.Join(unmet, ", and "), text)
		}
	}
}

// capture writes what the tab shows as a PNG, once it is painted.
func (p *page) capture(ctx context.Context, path string) error {
	painted := "new Promise(done => document.fonts.ready.then(() => requestAnimationFrame(() => requestAnimationFrame(() => done(true)))))"
	if err := p.eval(ctx, painted, nil); err != nil {
		return err
	}
	var answer struct{ Data string }
	if err := p.call(ctx, "Page.captureScreenshot", map[string]any{"format": "png"}, &answer); err != nil {
		return err
	}
	data, err := base64.StdEncoding.DecodeString(answer.Data)
	if err != nil {
		return fmt.Errorf("reading the picture: %w", err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		return fmt.Errorf("writing the picture: %w", err)
	}
	return nil
}
