package temporal

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/temporalio/ui-server/v2/server"
	"github.com/temporalio/ui-server/v2/server/config"
	"github.com/temporalio/ui-server/v2/server/server_options"

	"github.com/outflowhq/outflow/devstack/ports"
)

// UI is a running Web UI.
type UI struct {
	url    string
	server *server.Server
}

// StartUI serves the Web UI of the Temporal server at address on a loopback port (0: a free one)
// and returns when it answers.
func StartUI(ctx context.Context, address string, port int) (*UI, error) {
	port, err := ports.Or(port)
	if err != nil {
		return nil, fmt.Errorf("choosing the Web UI's port: %w", err)
	}
	ui := &UI{url: "http://" + ports.Address(port),
		server: server.NewServer(server_options.WithConfigProvider(&config.Config{
			TemporalGRPCAddress: address, Host: ports.Loopback, Port: port, EnableUI: true, DefaultNamespace: Namespace,
			CORS: config.CORS{CookieInsecure: true}, HideLogs: true, DisableNewsFetch: true,
		}))}
	go func() { _ = ui.server.Start() }() // it ends the process by itself where it can't listen, and returns nil else
	if err := until(ctx, ui.answers); err != nil {
		ui.server.Stop()
		return nil, fmt.Errorf("starting the Web UI: %w", err)
	}
	return ui, nil
}

func (u *UI) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.url+"/healthz", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("asking for its health: %s", resp.Status)
	}
	return nil
}

// URL is the UI's address in a browser.
func (u *UI) URL() string { return u.url }

// Stop closes the UI's listener and connections.
func (u *UI) Stop() { u.server.Stop() }
