package outboxdb_test

import (
	"bytes"
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
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

// Many large messages that are read together come in parts, each of which a
// slow link can bring within a statement's time.
func TestManyLargePayloadsOnASlowLink(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	slow := onALink(t, pool, 10<<20)
	sizes := []int{1, 8191, 8192, 8193, 1 << 20}
	var msgs []outflow.Message
	for i := range 24 { // 20 MiB at 10 MiB a second
		m := message("sqs://large")
		m.Payload = bytes.Repeat([]byte{byte('a' + i)}, sizes[min(i, len(sizes)-1)])
		msgs = append(msgs, m)
	}
	ids := enqueue(t, pool, msgs...)
	for name, look := range map[string]func(*outboxdb.Store, outbox.Ref) (outbox.Record, error){
		"load": func(s *outboxdb.Store, r outbox.Ref) (outbox.Record, error) { return s.Load(t.Context(), r) },
		"load again": func(s *outboxdb.Store, r outbox.Ref) (outbox.Record,
			error) {
			return s.LoadAgain(t.Context(), r)
		},
		"renew": func(s *outboxdb.Store, r outbox.Ref) (outbox.Record, error) {
			return s.Renew(t.Context(), outbox.Renewal{Ref: r, Lease: time.Minute})
		},
	} {
		t.Run(name, func(t *testing.T) {
			store := outboxdb.New(slow)
			// As on the fast path: what comes in time is loaded within a statement's time.
			quick, cancel := context.WithTimeout(t.Context(), 15*time.Second)
			defer cancel()
			var looking sync.WaitGroup
			for i, id := range ids {
				looking.Go(func() {
					record, err := look(store, ref(id))
					if err == nil && record.MissingBytes > 0 {
						record.Payload, err = store.LoadPayload(quick, record)
					}
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

// onALink is a pool on connections that bring so many bytes a second.
func onALink(t *testing.T, pool *pgxpool.Pool, bytesPerSecond int) *pgxpool.Pool {
	t.Helper()
	return another(t, pool, func(c *pgxpool.Config) {
		dial := c.ConnConfig.DialFunc
		c.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(ctx, network, address)
			return slowConn{conn, bytesPerSecond}, err
		}
	})
}

// The largest payload that there is, over 50 Mbit/s: 2.7 s. A caller with time for it,
// such as a durable attempt, gets it; one without does not wait in vain.
func TestTheLargestPayloadOnASlowLink(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	large := message("https://hooks.example.com/large")
	large.Payload = bytes.Repeat([]byte("x"), 16<<20)
	id := enqueue(t, pool, large)[0]
	store := outboxdb.New(onALink(t, pool, 50_000_000/8))
	record, err := store.Load(t.Context(), ref(id))
	require.NoError(t, err)
	require.Equal(t, len(large.Payload), record.MissingBytes, "a look at the row leaves it where it is")

	durable, cancel := context.WithTimeout(t.Context(), 25*time.Second)
	defer cancel()
	payload, err := store.LoadPayload(durable, record)
	require.NoError(t, err)
	require.True(t, bytes.Equal(large.Payload, payload))

	quick, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	_, err = store.LoadPayload(quick, record)
	require.ErrorContains(t, err, "loading the 16777216 bytes of payload of message "+id.String())
}
