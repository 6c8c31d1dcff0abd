package e2e

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/devstack/faults"
	"github.com/outflowhq/outflow/devstack/ports"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

// The example as a whole, with what makes a message come twice: an answer of SQS
// that is lost, and a consumer that dies between its effect and its delete. "make
// chaos ONLY=signup" breaks the rest of it, too.
func TestSignUpsGetOneEmailEach(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.queues.AutoCreate = false
	require.NoError(t, w.PrepareSignUps(t.Context()))
	w.start(faults.Worker)
	w.start(faults.Starter)
	port, err := ports.Free()
	require.NoError(t, err)
	url := "http://" + ports.Address(port)
	consumers := map[string]*faults.Member{}
	for name, args := range map[string][]string{"service": {"serve", "-listen", ports.Address(port)},
		"consumer": {"consume"}} {
		m, err := faults.SuperviseAs(name, binaries, faults.SignUp, w.env, args...)
		require.NoError(t, err)
		consumers[name] = m
		t.Cleanup(func() {
			require.NoError(t, m.Stop())
			if t.Failed() {
				t.Logf("%s said:\n%s", name, m.Said())
			}
		})
	}
	w.eventually(20*time.Second, "the service answers", func() bool {
		answer, err := http.Get(url)
		return err == nil && answer.Body.Close() == nil
	})

	load := w.StartSignUps(10, url)
	w.eventually(20*time.Second, "some have signed up", func() bool { return load.Confirmed() > 20 })
	w.queues.Inject(fakesqs.Fault{Action: "SendMessageBatch", Queue: faults.WelcomeQueue, Times: 2, CutAfter: true})
	select {
	case name := <-w.HoldDelete(faults.WelcomeQueue):
		require.NoError(t, consumers[name].Kill())
	case <-time.After(20 * time.Second):
		t.Fatal("the consumer deletes nothing")
	}
	confirmed := load.Confirmed()
	w.eventually(20*time.Second, "the load goes on", func() bool { return load.Confirmed() > confirmed+20 })
	load.Stop()

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err = w.Drain(ctx)
	require.NoError(t, err)
	require.NoError(t, w.AwaitConsumed(ctx))
	emails, err := load.Emails(ctx)
	require.NoError(t, err)
	t.Log(emails)
	require.Empty(t, emails.Wrong())
}
