package rabbitmq

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
)

// refusing is a connection to a broker that has refused the client: what is written fails, and what
// it said is read a little later.
type refusing struct {
	net.Conn
	said error
}

func (r refusing) Write([]byte) (int, error) {
	return 0, &net.OpError{Op: "write", Err: os.NewSyscallError("write", errPipe)}
}

func (r refusing) Read([]byte) (int, error) {
	time.Sleep(short)
	return 0, r.said
}

func (refusing) Close() error { return nil }

var errPipe = errors.New("broken pipe")

// TestWhatABrokerSaidBeforeItClosed is the reason, whatever the client notices first.
func TestWhatABrokerSaidBeforeItClosed(t *testing.T) {
	alert := &net.OpError{Op: "remote error", Err: errors.New("tls: certificate required")}
	for range 20 {
		w := newWire(&socket{})
		w.Conn = refusing{said: alert}
		_, err := amqp.Open(w, amqp.Config{SASL: []amqp.Authentication{&amqp.PlainAuth{}}})
		require.Error(t, err)
		require.Equal(t, error(alert), w.reason(err), "not %v", err)
	}
}

// TestFailedConnectionsHaveOneText for one reason: this side's port is another each time.
func TestFailedConnectionsHaveOneText(t *testing.T) {
	at := func(port int) net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port} }
	for _, port := range []int{40_001, 40_002} {
		err := &net.OpError{Op: "read", Net: "tcp", Source: at(port), Addr: at(5672), Err: errPipe}
		require.ErrorContains(t, connecting(Address{}, err), ": read tcp 127.0.0.1:5672: broken pipe (nothing was sent")
	}
}
