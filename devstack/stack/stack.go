// Package stack brings up everything that Outflow talks to: Postgres, Temporal with its Web UI,
// SQS/SNS and, where asked, RabbitMQ.
//
// The invariants: Up returns with all parts ready for use, or with none running; Down, or the end
// of the process in whatever way, takes all of them down; and settings of the environment change
// nothing: an external part is used only where Options names it.
package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/outflowhq/outflow/devstack/postgres"
	"github.com/outflowhq/outflow/devstack/queues"
	"github.com/outflowhq/outflow/devstack/rabbitmq"
	"github.com/outflowhq/outflow/devstack/temporal"
)

// Database is the application's database, created empty.
const Database = "outflow"

// Stack is what runs. One at a time in a process.
type Stack struct {
	options  Options
	folder   *folder
	postgres *postgres.Cluster // nil where external
	temporal *temporal.Server  // nil where external
	ui       *temporal.UI
	queues   *queues.Server
	rabbitmq *rabbitmq.Broker // nil where not asked for

	databaseURL, temporalAddress, envFile string

	kept keptPorts // of the data folder's last stack, then this one's

	mu    sync.Mutex
	moved []string // says which of them were taken
}

// Up brings all up, and takes down what it had started where a part fails.
func Up(ctx context.Context, o Options) (*Stack, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	f, err := openFolder(o)
	if err != nil {
		return nil, err
	}
	s := &Stack{options: o, folder: f}
	if s.kept, err = f.readPorts(); err != nil {
		return nil, errors.Join(err, f.close())
	}
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(err, s.Down())
	}
	if err := f.writePorts(s.kept); err != nil {
		return nil, errors.Join(err, s.Down())
	}
	if o.EnvFile != "" {
		if err := s.writeEnv(o.EnvFile); err != nil {
			return nil, errors.Join(err, s.Down())
		}
	}
	return s, nil
}

// start starts all parts. RabbitMQ takes seconds, in which the others start.
func (s *Stack) start(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	rabbit := make(chan error, 1)
	go func() { rabbit <- s.startRabbitMQ(ctx) }()
	for _, start := range []func(context.Context) error{s.startPostgres, s.startQueues, s.startTemporal, s.startUI} {
		if err := start(ctx); err != nil {
			cancel()
			<-rabbit // which has taken itself down, or Down does it
			return err
		}
	}
	return <-rabbit
}

func (s *Stack) startPostgres(ctx context.Context) error {
	if s.options.DatabaseURL != "" {
		s.databaseURL = s.options.DatabaseURL
		return nil
	}
	err := s.onPort("Postgres", s.options.PostgresPort, &s.kept.Postgres, func(port int) (_ int, err error) {
		s.postgres, err = postgres.Start(ctx, postgres.Options{
			Dir: s.folder.postgres, Port: port, LogFile: s.folder.logs("postgres"),
			Durable: s.options.Durable || !s.options.Ephemeral, Settings: s.options.PostgresSettings,
		})
		if err != nil {
			return 0, err
		}
		return s.postgres.Port(), nil
	})
	if err != nil {
		return err
	}
	s.databaseURL = s.postgres.URL(Database)
	return postgres.EnsureDatabase(ctx, s.postgres.URL("postgres"), Database)
}

func (s *Stack) startQueues(ctx context.Context) error {
	err := s.onPort("SQS and SNS", s.options.QueuePort, &s.kept.Queues, func(port int) (_ int, err error) {
		s.queues, err = queues.Start(queues.Options{Port: port, LogFile: s.folder.logs("queues")})
		if err != nil {
			return 0, err
		}
		return portOf(s.queues.URL())
	})
	if err != nil {
		return err
	}
	for _, name := range s.options.Queues {
		if err := s.queues.Create(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

func (s *Stack) startRabbitMQ(ctx context.Context) error {
	if !s.options.RabbitMQ {
		return nil
	}
	return s.onPort("RabbitMQ", s.options.RabbitMQPort, &s.kept.RabbitMQ, func(port int) (_ int, err error) {
		s.rabbitmq, err = rabbitmq.Start(ctx, rabbitmq.Options{
			Dir: filepath.Join(s.folder.path, "rabbitmq"), Port: port, LogFile: s.folder.logs("rabbitmq"),
		})
		if err != nil {
			return 0, err
		}
		return s.rabbitmq.Port(), nil
	})
}

func (s *Stack) startTemporal(ctx context.Context) error {
	if s.options.TemporalAddress != "" {
		s.temporalAddress = s.options.TemporalAddress
		return temporal.Prepare(ctx, s.temporalAddress)
	}
	return s.onPort("Temporal", s.options.TemporalPort, &s.kept.Temporal, func(port int) (_ int, err error) {
		s.temporal, err = temporal.Start(ctx, temporal.Options{
			DatabaseURL: s.databaseURL, Port: port, LogFile: s.folder.logs("temporal"),
		})
		if err != nil {
			return 0, err
		}
		s.temporalAddress = s.temporal.Address()
		return portOf("tcp://" + s.temporalAddress)
	})
}

func (s *Stack) startUI(ctx context.Context) error {
	return s.onPort("Temporal Web UI", s.options.UIPort, &s.kept.UI, func(port int) (_ int, err error) {
		s.ui, err = temporal.StartUI(ctx, s.temporalAddress, port)
		if err != nil {
			return 0, err
		}
		return portOf(s.ui.URL())
	})
}

// PostgresDone is closed when an own Postgres has ended by itself; nil, which never is, where it is
// external.
func (s *Stack) PostgresDone() <-chan struct{} {
	if s.postgres == nil {
		return nil
	}
	return s.postgres.Done()
}

// Down takes all down, in the reverse order, and goes on where a part fails to stop. External parts
// are left as they are.
func (s *Stack) Down() error {
	var errs []error
	if s.envFile != "" {
		errs = append(errs, os.Remove(s.envFile))
	}
	if s.ui != nil {
		s.ui.Stop()
	}
	if s.temporal != nil {
		errs = append(errs, s.temporal.Stop())
	}
	if s.queues != nil {
		errs = append(errs, s.queues.Stop())
	}
	if s.rabbitmq != nil {
		end := s.rabbitmq.Stop
		if s.options.Ephemeral {
			end = s.rabbitmq.Kill // nobody reads this data again
		}
		errs = append(errs, end())
	}
	if s.postgres != nil {
		end := s.postgres.Stop
		if s.options.Ephemeral {
			end = s.postgres.Quit // nobody reads this data again
		}
		errs = append(errs, end())
	}
	errs = append(errs, s.folder.close())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("taking the stack down: %w", err)
	}
	return nil
}
