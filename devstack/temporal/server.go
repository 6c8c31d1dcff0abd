// Package temporal runs a real Temporal server and its Web UI inside this process, stored in a
// given Postgres.
//
// The invariants: Start returns only when a workflow start with Outflow's search attributes is
// accepted, so nobody has to wait or retry after it; nothing listens outside of the loopback
// address; and the schema is brought to the server's version at each start, whatever an earlier,
// possibly killed, start left.
//
// One server a process: the server keeps process-wide state.
package temporal

import (
	"context"
	"fmt"
	"time"

	"go.temporal.io/server/common/dynamicconfig"
	"go.temporal.io/server/temporal"
	"golang.org/x/sync/errgroup"

	"github.com/outflowhq/outflow/devstack/ports"
	"github.com/outflowhq/outflow/devstack/postgres"
)

// Databases that the server keeps, beside the application's own in the same Postgres.
const (
	mainDatabase       = "temporal"
	visibilityDatabase = "temporal_visibility"
)

// Options says what to start. DatabaseURL is required.
type Options struct {
	// DatabaseURL leads to the Postgres server that stores Temporal's databases; the database in it
	// does not matter. Its role must be allowed to create databases.
	DatabaseURL string
	// Port is the gRPC frontend's, 0 for a free one.
	Port int
	// LogFile gets warnings and errors; required.
	LogFile string
}

// Server is a running Temporal.
type Server struct {
	address string
	server  temporal.Server
	log     *logFile
}

// Start brings the schema up to date, starts the server, and prepares the namespace (see Prepare).
func Start(ctx context.Context, o Options) (*Server, error) {
	store, err := parseStore(o.DatabaseURL)
	if err != nil {
		return nil, err
	}
	log, err := openLog(o.LogFile)
	if err != nil {
		return nil, err
	}
	s := &Server{log: log}
	if err := s.start(ctx, o, store); err != nil {
		s.close()
		return nil, fmt.Errorf("%w (log: %s)", err, o.LogFile)
	}
	return s, nil
}

func (s *Server) start(ctx context.Context, o Options, store store) error {
	if err := applySchemas(ctx, o.DatabaseURL, store, s.log.logger()); err != nil {
		return err
	}
	net, err := choosePorts(o.Port)
	if err != nil {
		return err
	}
	s.address = ports.Address(net.frontend)
	dynamic, settle := dynamicConfig()
	options, err := serverOptions(store, net, dynamic, s.log.logger())
	if err != nil {
		return err
	}
	server, err := temporal.NewServer(options...)
	if err != nil {
		return fmt.Errorf("building the Temporal server: %w", err)
	}
	if err := server.Start(); err != nil {
		return fmt.Errorf("starting the Temporal server: %w", err)
	}
	s.server = server
	if err := Prepare(ctx, s.address); err != nil {
		return err
	}
	settle()
	return nil
}

// Address is the gRPC frontend's host and port.
func (s *Server) Address() string { return s.address }

// Stop ends the server and its connections to Postgres, which must still be up.
func (s *Server) Stop() error { return s.close() }

func (s *Server) close() error {
	var err error
	if s.server != nil {
		err = s.server.Stop()
	}
	s.log.close()
	if err != nil {
		return fmt.Errorf("stopping the Temporal server: %w", err)
	}
	return nil
}

// applySchemas makes both databases and brings them to the server's schema versions.
func applySchemas(ctx context.Context, url string, store store, logger serverLogger) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, db := range []struct{ name, schema string }{
		{mainDatabase, "postgresql/v12/temporal"},
		{visibilityDatabase, "postgresql/v12/visibility"},
	} {
		g.Go(func() error {
			if err := postgres.EnsureDatabase(ctx, url, db.name); err != nil {
				return err
			}
			return applySchema(store.database(db.name), db.schema, logger)
		})
	}
	return g.Wait()
}

// dynamicConfig are the settings that differ from the server's defaults. settle ends the setting
// that is only for the start: how often each service asks for changed namespaces, which is what the
// start waits for after it registers ours.
func dynamicConfig() (_ dynamicconfig.Client, settle func()) {
	c := dynamicconfig.NewMemoryClient()
	// Nobody shares this server: limits only stand in the way of a load test. Defaults: 2,400,
	// 2,400, 10, 3,000, 1,200.
	const unlimited = 1_000_000
	for _, limit := range []dynamicconfig.GenericSetting{
		dynamicconfig.FrontendRPS, dynamicconfig.FrontendMaxNamespaceRPSPerInstance,
		dynamicconfig.FrontendMaxNamespaceVisibilityRPSPerInstance,
		dynamicconfig.FrontendMaxNamespaceNamespaceReplicationInducingAPIsRPSPerInstance,
		dynamicconfig.FrontendMaxConcurrentLongRunningRequestsPerInstance,
		dynamicconfig.HistoryRPS, dynamicconfig.MatchingRPS,
		dynamicconfig.FrontendPersistenceMaxQPS, dynamicconfig.HistoryPersistenceMaxQPS,
		dynamicconfig.MatchingPersistenceMaxQPS, dynamicconfig.WorkerPersistenceMaxQPS,
		dynamicconfig.VisibilityPersistenceMaxReadQPS, dynamicconfig.VisibilityPersistenceMaxWriteQPS,
	} {
		c.OverrideSetting(limit, unlimited)
	}
	c.OverrideSetting(dynamicconfig.EnableEagerWorkflowStart, true)
	// One host gains nothing from four partitions of a task queue but the forwarding between them.
	c.OverrideSetting(dynamicconfig.MatchingNumTaskqueueReadPartitions, 1)
	c.OverrideSetting(dynamicconfig.MatchingNumTaskqueueWritePartitions, 1)
	// The default, 128,000 runs, is memory that a laptop wants for something else.
	c.OverrideSetting(dynamicconfig.HistoryCacheHostLevelMaxSize, 16_384)
	// Scavengers for what a long-lived cluster loses, and a call home. The parent-close-policy
	// worker stays: the server hands parents with more than ten children to it.
	c.OverrideSetting(dynamicconfig.HistoryScannerEnabled, false)
	c.OverrideSetting(dynamicconfig.TaskQueueScannerEnabled, false)
	c.OverrideSetting(dynamicconfig.EnableServerVersionCheck, false)
	cleanup := c.OverrideSetting(dynamicconfig.NamespaceCacheRefreshInterval, 100*time.Millisecond)
	return c, cleanup
}
