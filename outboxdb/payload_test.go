package outboxdb_test

import (
	"bytes"
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb"
)

// slowConn is a connection that lets so many bytes in each second.
type slowConn struct {
	net.Conn
	bytesPerSecond int
}

func (c slowConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	time.Sleep(time.Duration(n) * time.Second / time.Duration(c.bytesPerSecond))
	return n, err
}

// Many large messages that are looked at together come in parts, each of which a
// slow link can bring within a statement's time.
func TestManyLargePayloadsOnASlowLink(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	slow := another(t, pool, func(c *pgxpool.Config) {
		dial := c.ConnConfig.DialFunc
		c.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(ctx, network, address)
			return slowConn{conn, 10 << 20}, err
		}
	})
	sizes := []int{1, 8191, 8192, 8193, 1 << 20}
	var msgs []outflow.Message
	for i := range 24 { // 20 MiB at 10 MiB a second
		m := message("sqs://large")
		m.Payload = bytes.Repeat([]byte{byte('a' + i)}, sizes[min(i, len(sizes)-1)])
		msgs = append(msgs, m)
	}
	ids := enqueue(t, pool, msgs...)
	for name, look := range map[string]func(*outboxdb.Store, outflow.Ref) (outflow.Record, error){
		"load":       func(s *outboxdb.Store, r outflow.Ref) (outflow.Record, error) { return s.Load(t.Context(), r) },
		"load again": func(s *outboxdb.Store, r outflow.Ref) (outflow.Record, error) { return s.LoadAgain(t.Context(), r) },
		"renew": func(s *outboxdb.Store, r outflow.Ref) (outflow.Record, error) {
			return s.Renew(t.Context(), outflow.Renewal{Ref: r, Lease: time.Minute})
		},
	} {
		t.Run(name, func(t *testing.T) {
			store := outboxdb.New(slow)
			var looking sync.WaitGroup
			for i, id := range ids {
				looking.Go(func() {
					record, err := look(store, ref(id))
					switch {
					case err != nil:
						t.Error(err)
					case !bytes.Equal(msgs[i].Payload, record.Payload):
						t.Errorf("message %d of %d bytes came with %d", i, len(msgs[i].Payload), len(record.Payload))
					}
				})
			}
			looking.Wait()
		})
	}
}
