package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/program"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/namespace"
	"github.com/outflowhq/outflow/operator"
	"github.com/outflowhq/outflow/outbox"
)

var (
	someID = uuid.MustParse("0198f3a2-5b1c-7000-8000-000000000001")
	someAt = time.Date(2026, 1, 31, 8, 0, 0, 0, time.UTC)
)

func ptr[T any](v T) *T { return &v }

// code is the exit code of a command that returned err.
func code(err error) int {
	var exit program.ExitError
	var mistake program.UsageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.Code
	case errors.As(err, &mistake):
		return 2
	}
	return 1
}

type fakeStatus struct {
	counts   []operator.PhaseCount
	breakers []operator.BreakerStatus
}

func (f fakeStatus) Status(context.Context, int) ([]operator.PhaseCount, []operator.BreakerStatus, error) {
	return f.counts, f.breakers, nil
}

func TestShowStatus(t *testing.T) {
	store := fakeStatus{
		counts: []operator.PhaseCount{
			{Destination: "sqs://b", Phase: "delivered", Messages: 9_990, AtLeast: true},
			{Destination: "sqs://a", Phase: "due", Messages: 3, OldestSeconds: 90},
			{Destination: "sqs://a", Phase: "retrying", Messages: 2, OldestSeconds: 3700, LastError: "throttled"},
			{Destination: "sqs://b", Phase: "dead", Messages: 1, OldestSeconds: 7, LastError: "no such\nqueue"},
			{Destination: "sqs://d", Phase: "waiting", Messages: 4, OldestSeconds: 60, LastError: "no AWS region"},
		},
		breakers: []operator.BreakerStatus{
			{Destination: "sqs://a", Failures: 7, FailingSince: &someAt, OpenUntil: ptr(someAt.Add(time.Minute)), Open: true, LastError: "throttled"},
			{Destination: "sqs://d", SlowUntil: &someAt},
			{Destination: "sqs://c", Failures: 1, FailingSince: &someAt, LastError: "reset"},
		},
	}
	var out bytes.Buffer
	require.NoError(t, showStatus(t.Context(), store.Status, 10, false, &out))
	assert.Equal(t, `DESTINATION  DUE  DELAYED  LEASED  WAITING  RETRYING  OLDEST   DEAD  DISMISSED  EXPIRED  CANCELLED  DELIVERED
sqs://a      3    0        0       0        2         1h1m40s  0     0          0        0          0
sqs://b      0    0        0       0        0         -        1     0          0        0          9990+
sqs://c      0    0        0       0        0         -        0     0          0        0          0
sqs://d      0    0        0       4        0         1m0s     0     0          0        0          0

sqs://a: 7 failures since 2026-01-31T08:00:00Z, breaker open until 2026-01-31T08:01:00Z
  throttled

sqs://b: 1 dead
  no such queue

sqs://c: 1 failures since 2026-01-31T08:00:00Z
  reset

sqs://d: slow to answer until 2026-01-31T08:00:00Z, or longer: messages leave the fast path unsent

sqs://d: 4 waiting
  no AWS region
`, out.String())

	out.Reset()
	require.NoError(t, showStatus(t.Context(), store.Status, 10, true, &out))
	var document struct {
		Bound        int
		Destinations []destinationStatus
	}
	require.NoError(t, json.Unmarshal(out.Bytes(), &document))
	assert.Equal(t, 10, document.Bound)
	require.Len(t, document.Destinations, 4)
	assert.Equal(t, 3, document.Destinations[0].Messages["due"].Messages)
	assert.True(t, document.Destinations[1].Messages["delivered"].AtLeast)

	out.Reset()
	require.NoError(t, showStatus(t.Context(), fakeStatus{}.Status, 10, false, &out))
	assert.Equal(t, "no messages\n", out.String())
}

var errAway = errors.New("connection refused")

// flaky fails at some looks.
type flaky struct {
	fakeStatus
	looks int
	fails func(look int) bool
}

func (f *flaky) Status(ctx context.Context, bound int) ([]operator.PhaseCount, []operator.BreakerStatus, error) {
	f.looks++
	if f.fails(f.looks) {
		return nil, nil, errAway
	}
	return f.fakeStatus.Status(ctx, bound)
}

// A watcher outlives an outage of the database; one that never saw it does not begin.
func TestWatchStatus(t *testing.T) {
	watch := func(asJSON bool, fails func(look int) bool) (looks int, stdout, stderr string, err error) {
		synctest.Test(t, func(t *testing.T) {
			ctx, stop := context.WithTimeout(t.Context(), 5*watchEvery-time.Millisecond)
			defer stop()
			store := &flaky{fakeStatus: fakeStatus{counts: []operator.PhaseCount{{Destination: "sqs://a", Phase: "due", Messages: 3}}}, fails: fails}
			var out, said bytes.Buffer
			err = watchStatus(ctx, commandLine{stdout: &out, stderr: &said}, store.Status, 10, asJSON)
			looks, stdout, stderr = store.looks, out.String(), said.String()
		})
		return looks, stdout, stderr, err
	}
	const clear = "\x1b[H\x1b[2J"
	looks, stdout, stderr, err := watch(false, func(look int) bool { return look == 2 || look == 3 })
	require.NoError(t, err, "Ctrl-C is how it ends")
	assert.Equal(t, 5, looks)
	assert.Equal(t, 5, strings.Count(stdout, clear))
	assert.Equal(t, 3, strings.Count(stdout, "sqs://a"))
	assert.Equal(t, strings.Repeat("outflow status: "+errAway.Error()+"; trying again\n", 2), stderr)

	looks, stdout, _, err = watch(true, func(int) bool { return false })
	require.NoError(t, err)
	assert.Equal(t, 5, looks)
	assert.NotContains(t, stdout, clear)
	for document := json.NewDecoder(strings.NewReader(stdout)); looks > 0; looks-- {
		require.NoError(t, document.Decode(new(map[string]any)), "programs read one document after another")
	}

	looks, _, _, err = watch(false, func(int) bool { return true })
	require.ErrorIs(t, err, errAway)
	assert.Equal(t, 1, looks)
}

// fakeList has so many messages, in pages.
type fakeList struct {
	messages []operator.MessageStatus
	filters  []operator.ListFilter
}

func (f *fakeList) List(_ context.Context, filter operator.ListFilter) ([]operator.MessageStatus, string, error) {
	f.filters = append(f.filters, filter)
	from := 0
	if filter.After != "" {
		if _, err := fmt.Sscan(filter.After, &from); err != nil {
			return nil, "", fmt.Errorf("listing: %w", operator.ErrCursor)
		}
	}
	page := f.messages[from:min(from+filter.Limit, len(f.messages))]
	if from+len(page) < len(f.messages) {
		return page, fmt.Sprint(from + len(page)), nil
	}
	return page, "", nil
}

// A query may hold a token: what operators copy into tickets does not show it. The
// row itself is what "outflow show" and "outflow list -json" print.
func TestAWebhooksQueryIsNotInTables(t *testing.T) {
	const secret = "https://shop.example/in?token=hunter2"
	m := statusOf("dead")
	m.Destination = secret
	rule := operator.CallbackRule{Destination: secret, Callback: secret}
	var out bytes.Buffer
	require.NoError(t, listMessages(t.Context(), &fakeList{messages: []operator.MessageStatus{m}}, operator.ListFilter{Limit: 2}, false, &out, &out))
	for _, asJSON := range []bool{false, true} {
		require.NoError(t, showStatus(t.Context(), fakeStatus{
			counts:   []operator.PhaseCount{{Destination: secret, Phase: "dead", Messages: 1, LastError: "gone"}},
			breakers: []operator.BreakerStatus{{Destination: secret, Failures: 7, LastError: "gone"}},
		}.Status, 10, asJSON, &out))
	}
	fmt.Fprint(&out, messagesOf(rule))
	assert.NotContains(t, out.String(), "hunter2")
	assert.Equal(t, 7, strings.Count(out.String(), "https://shop.example/in"))
}
func (f *fakeList) KnownDestinations(context.Context, string) ([]string, error) { return nil, nil }
func (f *fakeList) KnownTypes(context.Context) ([]string, error)                { return nil, nil }

func statusOf(phase string) operator.MessageStatus {
	m := operator.MessageStatus{
		ID: someID, Destination: "sqs://orders", Type: "order-placed", Phase: phase, State: outflow.State(phase), Generation: 2, Attempts: 3,
		ContentType: "application/json", PayloadBytes: 11, EnqueuedAt: someAt, DueAt: someAt, AvailableAt: someAt,
	}
	if m.State.Final() {
		m.FinishedAt, m.LastError = ptr(someAt.Add(time.Second)), ptr("no such queue")
	} else {
		m.State = outflow.Pending
	}
	return m
}

func TestListMessages(t *testing.T) {
	store := &fakeList{messages: []operator.MessageStatus{statusOf("dead"), statusOf("retrying"), statusOf("due")}}
	var out bytes.Buffer
	require.NoError(t, listMessages(t.Context(), store, operator.ListFilter{Limit: 2}, false, &out, io.Discard))
	assert.Equal(t, `ID                                    STATE     DESTINATION   TYPE          ATTEMPTS  ENQUEUED              ENDED                 LAST ERROR
0198f3a2-5b1c-7000-8000-000000000001  dead      sqs://orders  order-placed  3         2026-01-31T08:00:00Z  2026-01-31T08:00:01Z  no such queue
0198f3a2-5b1c-7000-8000-000000000001  retrying  sqs://orders  order-placed  3         2026-01-31T08:00:00Z  -                     -
more: -after 2
`, out.String())
	out.Reset()
	require.NoError(t, listMessages(t.Context(), store, operator.ListFilter{Limit: 2}, true, &out, io.Discard))
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	require.Len(t, lines, 3)
	assert.Contains(t, lines[0], `{"id":"0198f3a2-5b1c-7000-8000-000000000001","destination":"sqs://orders"`)
	assert.Equal(t, `{"next":"2"}`, lines[2])

	err := listMessages(t.Context(), store, operator.ListFilter{Limit: 2, After: "nonsense"}, false, &out, io.Discard)
	assert.Equal(t, 2, code(err))
	out.Reset()
	require.NoError(t, listMessages(t.Context(), &fakeList{}, operator.ListFilter{Limit: 2}, false, &out, io.Discard))
	assert.Equal(t, "no messages\n", out.String())
}

// fakeMessage is a table with one message.
type fakeMessage struct {
	message operator.MessageStatus
	ends    time.Duration // when Wait sees it delivered; 0 means never
	again   bool          // and somebody retries it at once
	waitErr error
}

func (f *fakeMessage) Message(_ context.Context, id uuid.UUID) (operator.MessageStatus, error) {
	if id != f.message.ID {
		return operator.MessageStatus{}, fmt.Errorf("looking: %w", outflow.ErrNotFound)
	}
	return f.message, nil
}

func (f *fakeMessage) Wait(ctx context.Context, _ uuid.UUID) (outflow.Outcome, error) {
	ended := make(<-chan time.Time)
	if f.ends > 0 {
		ended = time.After(f.ends)
	}
	switch {
	case f.waitErr != nil:
		return outflow.Outcome{}, f.waitErr
	case f.again:
		f.again = false
		return outflow.Outcome{State: outflow.Dead}, nil
	}
	select {
	case <-ended:
		f.message = statusOf("delivered")
		return outflow.Outcome{State: outflow.Delivered}, nil
	case <-ctx.Done():
		return outflow.Outcome{State: outflow.Pending}, ctx.Err()
	}
}

func TestShowMessage(t *testing.T) {
	retrying := statusOf("retrying")
	retrying.LastError, retrying.Headers = ptr("throttled"), map[string]string{"tenant": "a"}
	d := operator.Details{
		Message: retrying, WorkflowID: "outbox/x",
		Run: &operator.Run{
			WorkflowID: "outbox/x", RunID: "run-1", Status: "Running", StartedAt: someAt,
			Activities: []operator.Activity{{
				ID: "publish", State: "Scheduled", Attempt: 4, NextAttemptAt: &someAt, LastFailure: "throttled",
			}},
		},
		Audit: []operator.AuditEntry{{
			At: someAt, Act: "retry", Who: "ada", Login: "ops", Why: "it is back", Detail: json.RawMessage(`{"was": "dead"}`),
		}},
	}
	shown := func(d operator.Details, asJSON bool) string {
		var out bytes.Buffer
		s := shownOf(d, "http://ui.example/", "shop")
		if asJSON {
			require.NoError(t, writeDocument(&out, s))
		} else {
			require.NoError(t, s.write(&out, false))
		}
		return out.String()
	}
	assert.Equal(t, `message        0198f3a2-5b1c-7000-8000-000000000001
state          retrying
destination    sqs://orders
type           order-placed
payload        11 bytes, application/json
header tenant  a
generation     2
attempts       3 (claims: 0)
enqueued       2026-01-31T08:00:00Z
due            2026-01-31T08:00:00Z
leased until   2026-01-31T08:00:00Z
last error     throttled
run            Running run-1, started 2026-01-31T08:00:00Z
activity       publish: Scheduled, attempt 4, next 2026-01-31T08:00:00Z
its failure    throttled
web            http://ui.example/namespaces/shop/workflows/outbox%2Fx/run-1/history
audit          2026-01-31T08:00:00Z retry by ada (login ops): it is back {"was": "dead"}
`, shown(d, false))

	for name, c := range map[string]struct {
		payload string
		asJSON  bool
		noRun   string
		want    []string
	}{
		"the payload":           {`{"order":7}`, false, "", []string{"\n{\"order\":7}\n"}},
		"bytes":                 {"\xff\x00", false, "", []string{`base64 "/wA="`}},
		"a document":            {`{"order":7}`, true, "", []string{`"payload": "{\"order\":7}"`, `"status": "Running"`, `"act": "retry"`}},
		"a document with bytes": {"\xff\x00", true, "", []string{`"payloadBase64": "/wA="`}},
		"no run": {"x", false, "none: not started yet", []string{
			"run            none: not started yet", "/namespaces/shop/workflows?query=WorkflowId%3D%22outbox%2Fx%22",
		}},
		"no Temporal": {"x", true, "connection refused", []string{`"noRun": "connection refused"`}},
	} {
		t.Run(name, func(t *testing.T) {
			d := d
			d.Payload = []byte(c.payload)
			if c.noRun != "" {
				d.Run, d.NoRun = nil, c.noRun
			}
			out := shown(d, c.asJSON)
			for _, want := range c.want {
				assert.Contains(t, out, want)
			}
		})
	}
	d.Message.Callback, d.Message.CallbackState = ptr("https://shop.example/done"), ptr(outbox.CallbackFailed)
	d.Message.CallbackAttempts, d.Message.CallbackError = 4, ptr("410 gone")
	assert.Contains(t, shown(d, false), "callback       https://shop.example/done failed\nits attempts   4\nits error      410 gone\n")
}

func TestWaitFor(t *testing.T) {
	for name, c := range map[string]struct {
		f       fakeMessage
		timeout time.Duration
		code    int
		out     string
		took    time.Duration
	}{
		"delivered":         {fakeMessage{message: statusOf("delivered")}, 0, 0, "delivered", 0},
		"delivered in time": {fakeMessage{message: statusOf("due"), ends: 3 * time.Second}, time.Minute, 0, "delivered", 3 * time.Second},
		"started again":     {fakeMessage{message: statusOf("due"), ends: 3 * time.Second, again: true}, time.Minute, 0, "delivered", 3 * time.Second},
		"dead":              {fakeMessage{message: statusOf("dead")}, time.Minute, 3, "dead", 0},
		"expired":           {fakeMessage{message: statusOf("expired")}, time.Minute, 3, "expired", 0},
		"still pending":     {fakeMessage{message: statusOf("retrying")}, 30 * time.Second, 4, "retrying", 30 * time.Second},
		"one look":          {fakeMessage{message: statusOf("leased")}, 0, 4, "leased", 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				began := time.Now()
				err := waitFor(t.Context(), c.f.Message, c.f.Wait, someID, c.timeout, false, &out)
				assert.Equal(t, c.code, code(err), "%v", err)
				assert.Equal(t, someID.String()+"  "+c.out+"\n", out.String())
				assert.Equal(t, c.took, time.Since(began))
			})
		})
	}
	f := &fakeMessage{message: statusOf("waiting")}
	f.message.LastError = ptr("the host is\nnot allowed")
	err := waitFor(t.Context(), f.Message, f.Wait, someID, 0, false, io.Discard)
	assert.EqualError(t, err, "message "+someID.String()+": still pending (waiting): the host is not allowed")
	f = &fakeMessage{message: statusOf("due")}
	err = waitFor(t.Context(), f.Message, f.Wait, uuid.New(), time.Minute, false, io.Discard)
	assert.Equal(t, 3, code(err))
	f.waitErr = errors.New("permission denied")
	err = waitFor(t.Context(), f.Message, f.Wait, someID, time.Minute, false, io.Discard)
	assert.Equal(t, 1, code(err))
	assert.ErrorContains(t, err, "permission denied")
	f.waitErr = nil
	stopped, stop := context.WithCancelCause(t.Context())
	stop(errors.New("interrupt"))
	err = waitFor(stopped, f.Message, f.Wait, someID, time.Minute, false, io.Discard)
	assert.Equal(t, 1, code(err))
	assert.ErrorContains(t, err, "interrupt")
}

// at is a command line with somebody at the terminal who answers.
func at(answers string, out, errs io.Writer) commandLine {
	return commandLine{getenv: func(string) string { return "" }, stdin: strings.NewReader(answers), terminal: true, stdout: out, stderr: errs}
}

func many(n int) *fakeList {
	f := &fakeList{}
	for range n {
		m := statusOf("dead")
		m.ID = uuid.New()
		f.messages = append(f.messages, m)
	}
	return f
}

func TestActsOnASelection(t *testing.T) {
	allDone := func(_ context.Context, ids []uuid.UUID) (answers []operator.Answer, _ error) {
		for _, id := range ids {
			answers = append(answers, operator.Answer{ID: id, Verdict: operator.Done, Text: "done"})
		}
		return answers, nil
	}
	t.Run("asks before a filter touches more than one", func(t *testing.T) {
		for answer, want := range map[string]int{"y\n": 0, "YES\n": 0, "n\n": 3, "\n": 3, "": 3} {
			var out, errs bytes.Buffer
			s := &selection{command: "retry", limit: 1000, filter: operator.ListFilter{State: outflow.Dead}}
			err := s.act(t.Context(), at(answer, &out, &errs), many(1001), allDone)
			assert.Equal(t, want, code(err), "%q", answer)
			assert.Contains(t, errs.String(), "retry 1000 messages, and there are more? [y/N] ")
			assert.Equal(t, want == 0, out.Len() > 0)
		}
	})
	t.Run("does not ask for one, nor for IDs, nor with -yes", func(t *testing.T) {
		for _, s := range []*selection{{limit: 1}, {ids: []uuid.UUID{someID, uuid.New()}}, {limit: 1000, yes: true}} {
			var out, errs bytes.Buffer
			require.NoError(t, s.act(t.Context(), at("", &out, &errs), many(3), allDone))
			assert.NotContains(t, errs.String(), "?")
			assert.NotZero(t, out.Len())
		}
	})
	t.Run("wants -yes where nobody can answer", func(t *testing.T) {
		cl := at("y\n", io.Discard, io.Discard)
		cl.terminal = false
		err := (&selection{command: "retry", limit: 10}).act(t.Context(), cl, many(2), allDone)
		assert.Equal(t, 2, code(err))
	})
	t.Run("goes on in pages and statements", func(t *testing.T) {
		from, sizes := many(1201), []int{}
		s := &selection{limit: 1150, yes: true}
		require.NoError(t, s.act(t.Context(), at("", io.Discard, io.Discard), from, func(ctx context.Context, ids []uuid.UUID) ([]operator.Answer, error) {
			sizes = append(sizes, len(ids))
			return allDone(ctx, ids)
		}))
		require.Len(t, from.filters, 3)
		assert.Equal(t, 150, from.filters[2].Limit)
		assert.Len(t, sizes, 12)
		assert.Equal(t, 50, sizes[11])
	})
	t.Run("no faster than -rate", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			began, errs := time.Now(), &bytes.Buffer{}
			s := &selection{limit: 100, yes: true, rate: 10}
			require.NoError(t, s.act(t.Context(), at("", io.Discard, errs), many(100), allDone))
			assert.Equal(t, 9*time.Second, time.Since(began), "ten at once, then a second")
			assert.Contains(t, errs.String(), "40 of 100\n")
		})
	})
	t.Run("prints JSON", func(t *testing.T) {
		var out bytes.Buffer
		s := &selection{ids: []uuid.UUID{someID}, json: true}
		require.NoError(t, s.act(t.Context(), at("", &out, io.Discard), nil, allDone))
		assert.Equal(t, `{"id":"0198f3a2-5b1c-7000-8000-000000000001","verdict":"done","text":"done"}`+"\n", out.String())
	})
	for name, c := range map[string]struct {
		verdicts []operator.Verdict
		err      error
		code     int
	}{
		"all done":         {[]operator.Verdict{operator.Done, operator.Done}, nil, 0},
		"one refused":      {[]operator.Verdict{operator.Done, operator.Refused}, nil, 3},
		"one undecided":    {[]operator.Verdict{operator.Undecided, operator.Refused}, nil, 4},
		"one failed":       {[]operator.Verdict{operator.Undecided, operator.Failed}, nil, 1},
		"the table failed": {[]operator.Verdict{operator.Done}, errors.New("no connection"), 1},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			s := &selection{ids: []uuid.UUID{someID, uuid.New()}}
			err := s.act(t.Context(), at("", &out, io.Discard), nil, func(context.Context, []uuid.UUID) (answers []operator.Answer, _ error) {
				for _, v := range c.verdicts {
					answers = append(answers, operator.Answer{ID: someID, Verdict: v, Text: string(v)})
				}
				return answers, c.err
			})
			assert.Equal(t, c.code, code(err))
			assert.Equal(t, len(c.verdicts), strings.Count(out.String(), "\n"), "the answers are printed in any case")
		})
	}
}

// fakePurge has so many old messages, and may be too slow for more than slow at
// once.
type fakePurge struct {
	left, slow int
	asked      []outbox.Purge
}

func (f *fakePurge) Purge(_ context.Context, p outbox.Purge, _ operator.Actor) (outbox.Purged, error) {
	f.asked = append(f.asked, p)
	if f.slow > 0 && p.Limit > f.slow {
		return outbox.Purged{}, fmt.Errorf("purging: %w", context.DeadlineExceeded)
	}
	n := min(p.Limit, f.left)
	f.left -= n
	return outbox.Purged{Rows: n, UpTo: time.Unix(int64(len(f.asked)), 0)}, nil
}

func TestPurgeMessages(t *testing.T) {
	for name, c := range map[string]struct {
		left, limit, slow int
		rate              float64
		asked             []int
		out               string
	}{
		"all":              {2500, 0, 0, 0, []int{1000, 1000, 1000}, "moved 2500 messages\n"},
		"some":             {2500, 1200, 0, 0, []int{1000, 200}, "moved 1200 messages\n"},
		"none":             {0, 0, 0, 0, []int{1000}, "moved 0 messages\n"},
		"whole pages":      {2000, 0, 0, 0, []int{1000, 1000, 1000}, "moved 2000 messages\n"},
		"large payloads":   {25, 0, 10, 0, []int{1000, 100, 10, 10, 10}, "moved 25 messages\n"},
		"no more a second": {250, 0, 0, 100, []int{100, 100, 100}, "moved 250 messages\n"},
		"a slow rate":      {1, 0, 0, 0.5, []int{1, 1}, "moved 1 messages\n"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				store, began := &fakePurge{left: c.left, slow: c.slow}, time.Now()
				p := purging{Purge: outbox.Purge{State: outflow.Dead, OlderThan: time.Hour, Limit: purgeChunk, History: true}, limit: c.limit, rate: c.rate}
				require.NoError(t, purgeMessages(t.Context(), at("", &out, io.Discard), store.Purge, p))
				var asked []int
				for i, p := range store.asked {
					asked = append(asked, p.Limit)
					assert.Equal(t, outbox.Purge{State: outflow.Dead, OlderThan: time.Hour, History: true}, outbox.Purge{State: p.State, OlderThan: p.OlderThan, History: p.History})
					if i > 0 && c.slow == 0 {
						assert.Equal(t, time.Unix(int64(i), 0), p.After, "each goes on where the one before stopped")
					}
				}
				assert.Equal(t, c.asked, asked)
				assert.Equal(t, c.out, out.String())
				if c.rate > 0 {
					assert.Equal(t, time.Duration(float64(c.left/c.asked[0]*c.asked[0])/c.rate*float64(time.Second)), time.Since(began))
				}
			})
		})
	}
	t.Run("reports its progress", func(t *testing.T) {
		for history, want := range map[bool]string{false: "deleted 400\ndeleted 700\n", true: "moved 400\nmoved 700\n"} {
			synctest.Test(t, func(t *testing.T) {
				var errs bytes.Buffer
				p := purging{Purge: outbox.Purge{State: outflow.Dead, Limit: purgeChunk, History: history}, rate: 100}
				require.NoError(t, purgeMessages(t.Context(), at("", io.Discard, &errs), (&fakePurge{left: 850}).Purge, p))
				assert.Equal(t, want, errs.String(), "each time that more than two seconds have passed")
			})
		}
		var errs bytes.Buffer
		require.NoError(t, purgeMessages(t.Context(), at("", io.Discard, &errs), (&fakePurge{left: 2500}).Purge, purging{Purge: outbox.Purge{Limit: purgeChunk}}))
		assert.Empty(t, errs.String(), "a short one says nothing until it is done")
	})
	var out bytes.Buffer
	require.NoError(t, purgeMessages(t.Context(), at("", &out, io.Discard), (&fakePurge{left: 3}).Purge, purging{Purge: outbox.Purge{Limit: 10}, json: true}))
	assert.Equal(t, "{\"deleted\":3}\n", out.String())
	stopped, stop := context.WithCancelCause(t.Context())
	stop(errors.New("Ctrl-C"))
	err := purgeMessages(stopped, at("", io.Discard, io.Discard), (&fakePurge{left: 3}).Purge, purging{rate: 1, Purge: outbox.Purge{Limit: 10}})
	assert.EqualError(t, err, "stopped after 1 messages: Ctrl-C")
}

func TestExaminePrints(t *testing.T) {
	away := operator.Subject{DatabaseErr: errors.New("no database"), NamespaceErr: errors.New("no Temporal"), Target: namespace.Target{Address: "a:1", Namespace: "shop"}}
	var out bytes.Buffer
	err := examine(t.Context(), away, false, &out)
	assert.Equal(t, 1, code(err))
	assert.ErrorContains(t, err, "2 checks fail")
	assert.Equal(t, `fail  database      no database
                    → set DATABASE_URL to the application's database
fail  temporal      a:1, namespace shop: no Temporal
                    → check TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE and its credentials
skip  destinations  the table could not be read
skip  notify        the database could not be asked
`, out.String())
	out.Reset()
	assert.Equal(t, 1, code(examine(t.Context(), away, true, &out)))
	assert.Contains(t, out.String(), `{"check":"database","level":"fail","text":"no database","remedy":"set DATABASE_URL to the application's database"}`+"\n")
}

// with runs a command line with these settings only, without a terminal.
func with(t *testing.T, settings map[string]string, stdin, line string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	err = commandLine{getenv: func(name string) string { return settings[name] }, stdin: strings.NewReader(stdin), stdout: &out, stderr: &errs}.
		run(t.Context(), strings.Fields(line))
	return out.String(), errs.String(), err
}

// Bulk acts on a real table, while Temporal and the broker are away.
func TestCommandsWithTheDatabaseAlone(t *testing.T) {
	pool := teststack.New(t)
	settings := map[string]string{
		"DATABASE_URL": pool.Config().ConnString(), "TEMPORAL_ADDRESS": "127.0.0.1:1", "OUTFLOW_LEASE": "nonsense", "OUTFLOW_WHO": "ada@host",
	}
	outflowRun := func(stdin, line string) (string, string, int) {
		out, errs, err := with(t, settings, stdin, line)
		return out, errs, code(err)
	}
	for i := range 7 {
		out, errs, exit := outflowRun(fmt.Sprintf("order %d", i), "send -destination sqs://orders --type order-placed -header tenant=a -json")
		require.Zero(t, exit, errs)
		require.Contains(t, out, `{"id":"`)
	}
	_, err := pool.Exec(t.Context(), `UPDATE outbox.messages SET state = 'dead', finished_at = now(), last_error = 'no such queue'`)
	require.NoError(t, err)
	_, _, exit := outflowRun("", "retry -state dead -limit 5")
	assert.Equal(t, 2, exit, "nobody to ask")
	out, errs, exit := outflowRun("", "retry -state dead -destination sqs://orders -limit 5 -rate 1000 -yes -why fixed")
	assert.Zero(t, exit)
	assert.Equal(t, 5, strings.Count(out, "was dead, pending again"))
	assert.Contains(t, errs, "messages selected: 5, and there are more\n")
	var audited int
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM outbox.audit WHERE act = 'retry' AND who = 'ada@host' AND why = 'fixed' AND generation = 2`).Scan(&audited))
	assert.Equal(t, 5, audited)

	out, _, exit = outflowRun("", "redirect -state dead -to sqs://other -yes -json")
	assert.Zero(t, exit)
	assert.Equal(t, 2, strings.Count(out, `"verdict":"done"`))
	out, _, exit = outflowRun("", "status -json")
	assert.Zero(t, exit)
	assert.Contains(t, out, `"destination": "sqs://other"`)

	id, errs, exit := outflowRun("", "send -destination sqs://orders -type a -payload x -id 0198f3a2-5b1c-7000-8000-000000000001")
	require.Zero(t, exit, errs)
	_, _, exit = outflowRun("", "send -destination sqs://orders -type a -payload x -id "+strings.TrimSpace(id))
	assert.Equal(t, 3, exit, "it exists")
	_, _, exit = outflowRun("", "send -destination nonsense -type a -payload x")
	assert.Equal(t, 2, exit)
	_, _, exit = outflowRun("", "send -destination sqs://orders -type a")
	assert.Equal(t, 2, exit, "an empty payload")
	out, _, exit = outflowRun("", "show "+id+" --payload")
	assert.Zero(t, exit)
	assert.Contains(t, out, "connecting to Temporal at 127.0.0.1:1")
	assert.True(t, strings.HasSuffix(out, "\n\nx\n"))
	out, _, exit = outflowRun("", "wait "+id+" -timeout 200ms")
	assert.Equal(t, 4, exit)
	assert.Equal(t, strings.TrimSpace(id)+"  due\n", out)
	waited := make(chan int)
	go func() {
		_, _, exit := outflowRun("", "wait "+id+" -timeout 1m -json")
		waited <- exit
	}()
	require.Eventually(t, func() bool {
		var waits bool
		err := pool.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM outbox.waiters)`).Scan(&waits)
		return err == nil && waits
	}, 20*time.Second, 10*time.Millisecond)
	_, _, exit = outflowRun("", "cancel "+id)
	assert.Zero(t, exit)
	assert.Equal(t, 3, <-waited)
	out, _, exit = outflowRun("", "doctor")
	assert.Equal(t, 1, exit)
	assert.Contains(t, out, "fail  temporal")
}

// A host and its new paths have a breaker each, and different names.
func TestBreakerNames(t *testing.T) {
	assert.Equal(t, "https://shop.example (new paths)", breakerName("https://shop.example#new"))
	assert.Equal(t, "https://shop.example", breakerName("https://shop.example"))
	assert.Equal(t, "https://shop.example/in", breakerName("https://shop.example/in?token=hunter2"))
}
