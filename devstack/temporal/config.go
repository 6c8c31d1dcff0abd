package temporal

import (
	"fmt"
	"net"
	"strconv"

	"github.com/jackc/pgx/v5"
	"go.temporal.io/server/common/authorization"
	"go.temporal.io/server/common/cluster"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/dynamicconfig"
	"go.temporal.io/server/common/membership/static"
	"go.temporal.io/server/common/persistence/sql/sqlplugin/postgresql"
	"go.temporal.io/server/common/primitives"
	"go.temporal.io/server/temporal"

	"github.com/outflowhq/outflow/devstack/ports"
)

const (
	clusterName = "active"
	// shards can't be changed once a database exists. Four keep four starts from waiting for one
	// another; each costs idle queue readers.
	shards   = 4
	maxConns = 20 // a pool; the server opens one for its store and one for visibility in each of its four services
)

// store is the Postgres server in the form that Temporal's configuration wants.
type store struct {
	address, user, password string
	attributes              map[string]string
}

func parseStore(url string) (store, error) {
	c, err := pgx.ParseConfig(url)
	if err != nil {
		return store{}, fmt.Errorf("parsing the database URL: %w", err)
	}
	s := store{
		address: net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))),
		user:    c.User, password: c.Password, attributes: map[string]string{"sslmode": "disable"},
	}
	if c.TLSConfig != nil {
		s.attributes["sslmode"] = "require"
	}
	return s, nil
}

func (s store) database(name string) *config.SQL {
	return &config.SQL{
		PluginName: postgresql.PluginNamePGX, DatabaseName: name,
		ConnectAddr: s.address, ConnectProtocol: "tcp", User: s.user, Password: s.password, ConnectAttributes: s.attributes,
		MaxConns: maxConns, MaxIdleConns: maxConns,
	}
}

// network holds the ports of the four services.
type network struct{ frontend, history, matching, worker int }

func choosePorts(frontend int) (network, error) {
	var n network
	var err error
	if n.frontend, err = ports.Or(frontend); err != nil {
		return n, fmt.Errorf("choosing Temporal's port: %w", err)
	}
	taken := map[int]bool{n.frontend: true}
	for _, port := range []*int{&n.history, &n.matching, &n.worker} {
		for *port == 0 || taken[*port] {
			if *port, err = ports.Free(); err != nil {
				return n, fmt.Errorf("choosing Temporal's inner ports: %w", err)
			}
		}
		taken[*port] = true
	}
	return n, nil
}

func (n network) of(service primitives.ServiceName) int {
	return map[primitives.ServiceName]int{
		primitives.FrontendService: n.frontend, primitives.HistoryService: n.history,
		primitives.MatchingService: n.matching, primitives.WorkerService: n.worker,
	}[service]
}

func serverOptions(store store, n network, dynamic dynamicconfig.Client,
	logger serverLogger) ([]temporal.ServerOption, error) {
	c := serverConfig(store, n)
	hosts := map[primitives.ServiceName]static.Hosts{}
	for _, name := range temporal.DefaultServices {
		service := primitives.ServiceName(name)
		hosts[service] = static.SingleLocalHost(ports.Address(n.of(service)))
		c.Services[name] = config.Service{RPC: config.RPC{GRPCPort: n.of(service), BindOnIP: ports.Loopback}}
	}
	authorizer, err := authorization.GetAuthorizerFromConfig(&c.Global.Authorization)
	if err != nil {
		return nil, fmt.Errorf("building Temporal's authorizer: %w", err)
	}
	claims, err := authorization.GetClaimMapperFromConfig(&c.Global.Authorization, logger)
	if err != nil {
		return nil, fmt.Errorf("building Temporal's claim mapper: %w", err)
	}
	return []temporal.ServerOption{
		temporal.WithConfig(c),
		temporal.ForServices(temporal.DefaultServices),
		temporal.WithStaticHosts(hosts), // one process: no gossip between its services
		temporal.WithLogger(logger),
		temporal.WithNamespaceLogger(logger),
		temporal.WithDynamicConfigClient(dynamic),
		temporal.WithAuthorizer(authorizer),
		temporal.WithClaimMapper(func(*config.Config) authorization.ClaimMapper { return claims }),
	}, nil
}

func serverConfig(store store, n network) *config.Config {
	c := &config.Config{Services: map[string]config.Service{}}
	c.Persistence = config.Persistence{
		DefaultStore: mainDatabase, VisibilityStore: visibilityDatabase, NumHistoryShards: shards,
		DataStores: map[string]config.DataStore{
			mainDatabase:       {SQL: store.database(mainDatabase)},
			visibilityDatabase: {SQL: store.database(visibilityDatabase)},
		},
	}
	c.ClusterMetadata = &cluster.Config{
		FailoverVersionIncrement: 10, MasterClusterName: clusterName, CurrentClusterName: clusterName,
		ClusterInformation: map[string]cluster.ClusterInformation{
			clusterName: {Enabled: true, InitialFailoverVersion: 1, RPCAddress: ports.Address(n.frontend)},
		},
	}
	c.DCRedirectionPolicy.Policy = "noop"
	c.Global.Membership.BroadcastAddress = ports.Loopback
	c.PublicClient.HostPort = ports.Address(n.frontend)
	const disabled = "disabled"
	c.Archival.History.State, c.Archival.Visibility.State = disabled, disabled
	c.NamespaceDefaults.Archival.History.State, c.NamespaceDefaults.Archival.Visibility.State = disabled, disabled
	return c
}
