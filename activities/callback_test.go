package activities

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/outbox"
)

// sender answers as a test says, and notes what it is asked to send.
type sender struct {
	answer func(ctx context.Context) error
	sent   []sentCallback
}

type sentCallback struct{ destination, id, contentType, body string }

func (s *sender) SendCallback(ctx context.Context, destination, id, contentType string, body []byte) error {
	s.sent = append(s.sent, sentCallback{destination, id, contentType, string(body)})
	if s.answer == nil {
		return nil
	}
	return s.answer(ctx)
}

// callBack runs Callback as a worker would.
func callBack(t *testing.T, f *fake, s *sender) (CallbackResult, *temporal.ApplicationError) {
	t.Helper()
	env, _ := environment()
	a := New(f, f, WithCallbacks(s))
	env.RegisterActivity(a.Callback)
	value, err := env.ExecuteActivity(a.Callback,
		CallbackInput{MessageID: f.callback.ID, Generation: f.callback.Generation})
	if err != nil {
		var failed *temporal.ApplicationError
		require.ErrorAs(t, err, &failed)
		return CallbackResult{}, failed
	}
	var result CallbackResult
	require.NoError(t, value.Get(&result))
	return result, nil
}

func owing() *fake {
	return &fake{callback: outbox.Callback{
		To: "https://shop.example/done", Destination: "sqs://orders", Type: "order-placed", EnqueuedAt: time.Date(2026,
			1, 31, 9, 0, 0, 5000, time.FixedZone("", 3600)),
		Outcome: outflow.Outcome{
			ID: uuid.MustParse("018f6a3e-7c1b-7d5e-9b1a-2f6f0c9d4e11"), State: outflow.Dead, Generation: 2, Attempts: 3,
			LastError: "no such queue", FinishedAt: time.Date(2026, 1, 31, 8, 0, 1, 0, time.UTC),
		},
	}}
}

// The body stands in docs/contract.md.
func TestCallbackBody(t *testing.T) {
	f, s := owing(), &sender{}
	result, failed := callBack(t, f, s)
	require.Nil(t, failed)
	assert.Equal(t, CallbackResult{Verdict: CallbackSent, Reported: outflow.Dead}, result)
	assert.Equal(t, []sentCallback{{
		"https://shop.example/done", "018f6a3e-7c1b-7d5e-9b1a-2f6f0c9d4e11_2_dead", "application/json",
		`{"messageId":"018f6a3e-7c1b-7d5e-9b1a-2f6f0c9d4e11","type":"order-placed","destination":"sqs://orders",` +
			`"state":"dead","generation":2,"attempts":3,"enqueuedAt":"2026-01-31T08:00:00.000005Z",` +
			`"finishedAt":"2026-01-31T08:00:01Z","lastError":"no such queue"}`,
	}}, s.sent)
	ref := outbox.Ref{ID: f.callback.ID, Generation: 2}
	assert.Equal(t, []outbox.Ref{ref}, f.begun)
	assert.Equal(t, []outbox.CallbackNote{{Ref: ref, End: outflow.Dead, State: outbox.CallbackSent}}, f.notes)
}

// Of a message by route, the body names the group, which is what its producer knows.
func TestCallbackOfAGroup(t *testing.T) {
	f := owing()
	f.callback.GroupID = uuid.MustParse("018f6a3e-7c1b-7d5e-9b1a-2f6f0c9d4e12")
	body, err := bodyOf(f.callback)
	require.NoError(t, err)
	assert.Contains(t, string(body), `{"messageId":"018f6a3e-7c1b-7d5e-9b1a-2f6f0c9d4e11","groupId":"018f6a3e-7c1b-7d5e-9b1a-2f6f0c9d4e12","type"`)
	e, err := outflow.DecodeCallback(body)
	require.NoError(t, err)
	assert.Equal(t, f.callback.GroupID, e.GroupID)
}

// With the payload, in whichever form JSON has for it, or without one that is too
// long; and never unasked.
func TestCallbackPayload(t *testing.T) {
	for name, c := range map[string]struct {
		payload string
		asked   bool
		want    string
	}{
		"not asked for": {`{"secret":1}`, false, ""},
		"text": {"{\"a\":\"<&>ä\U0001F600\u2028\"}\r\n", true,
			`"contentType":"text/plain","payload":"{\"a\":\"<&>ä😀\u2028\"}\r\n"`},
		"bytes":        {"\xff\x00", true, `"contentType":"text/plain","payloadBase64":"/wA="`},
		"a control":    {"a\x1b", true, `"contentType":"text/plain","payloadBase64":"YRs="`},
		"no character": {"\uFFFE", true, `"contentType":"text/plain","payloadBase64":"77++"`},
		"too long":     {"", true, `"contentType":"text/plain","payloadOmitted":true`},
	} {
		t.Run(name, func(t *testing.T) {
			f, s := owing(), &sender{}
			f.callback.WithPayload = c.asked
			f.callback.Payload, f.callback.ContentType = []byte(c.payload), "text/plain"
			_, failed := callBack(t, f, s)
			require.Nil(t, failed)
			end, found := strings.CutPrefix(s.sent[0].body, `{"messageId":`)
			require.True(t, found && json.Valid([]byte(s.sent[0].body)))
			_, end, _ = strings.Cut(end, `"lastError":"no such queue"`)
			assert.Equal(t, strings.TrimSuffix(","+c.want, ",")+"}", end)
		})
	}
	for _, worst := range []string{`"`, "\n", "\u2028", "\x7f", "\x00", "\xff", "\U0001F600"} {
		f := owing()
		f.callback.WithPayload, f.callback.LastError = true, strings.Repeat("\"", 8<<10)
		f.callback.Payload = []byte(strings.Repeat(worst, outflow.MaxCallbackPayload/len(worst)))
		body, err := bodyOf(f.callback)
		require.NoError(t, err)
		assert.Less(t, len(body), 2*outflow.MaxCallbackPayload+32<<10, "%q", worst)
	}
}

func TestCallbackFailures(t *testing.T) {
	busy := &outflow.Failure{Class: outflow.ClassUnavailable, RetryAfter: 10 * time.Minute, Err: errors.New("429")}
	for name, c := range map[string]struct {
		change  func(f *fake, s *sender)
		kind    string
		final   bool
		atLeast time.Duration
		atMost  time.Duration
		noted   outbox.CallbackState
	}{
		"retryable": {func(f *fake, s *sender) { s.answer = always(errors.New("reset")) }, ErrTypeRetryable, false,
			800 * time.Millisecond, 1200 * time.Millisecond, outbox.CallbackDue},
		"asked to wait": {func(f *fake, s *sender) { s.answer = always(busy) }, ErrTypeUnavailable, false,
			10 * time.Minute, 11 * time.Minute, outbox.CallbackDue},
		"permanent": {func(f *fake, s *sender) { s.answer = always(outflow.Permanent(errors.New("404"))) },
			ErrTypePermanent, true, 0, 0, outbox.CallbackFailed},
		"permanent, unnoted": {func(f *fake, s *sender) {
			s.answer = always(outflow.Permanent(errors.New("404")))
			f.noteErr = errors.New("no database")
		}, ErrTypeRetryable, false, 1, time.Minute, outbox.CallbackFailed},
		"sent, unnoted": {func(f *fake, s *sender) { f.noteErr = errors.New("no database") }, ErrTypeRetryable,
			false, 1, time.Minute, outbox.CallbackSent},
		"another end by then": {func(f *fake, s *sender) { f.refused = true }, ErrTypeRetryable, false, 1, time.Minute,
			outbox.CallbackSent},
		"no database at all": {func(f *fake, s *sender) { f.beginErr = errors.New("no database") }, ErrTypeRetryable,
			false, 1, time.Minute, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f, s := owing(), &sender{}
			c.change(f, s)
			_, failed := callBack(t, f, s)
			require.NotNil(t, failed)
			assert.Equal(t, c.kind, failed.Type(), "%v", failed)
			assert.Equal(t, c.final, failed.NonRetryable())
			assert.GreaterOrEqual(t, failed.NextRetryDelay(), c.atLeast)
			assert.LessOrEqual(t, failed.NextRetryDelay(), c.atMost)
			if c.noted == "" {
				assert.Empty(t, f.notes)
				assert.Empty(t, s.sent)
				return
			}
			require.Len(t, f.notes, 1)
			assert.Equal(t, c.noted, f.notes[0].State)
			if c.noted == outbox.CallbackDue {
				assert.Greater(t, f.notes[0].Lease, failed.NextRetryDelay()+timing.CallbackAttempt,
					"scanners leave it to the next attempt")
			}
		})
	}
}

func always(err error) func(context.Context) error { return func(context.Context) error { return err } }

func TestCallbackNotDue(t *testing.T) {
	f, s := owing(), &sender{}
	f.notDue = true
	result, failed := callBack(t, f, s)
	require.Nil(t, failed)
	assert.Equal(t, CallbackNotDue, result.Verdict)
	assert.Empty(t, s.sent)
	assert.Empty(t, f.notes)
}

// The sender's deadline leaves time to note the answer.
func TestCallbackDeadlines(t *testing.T) {
	f, s := owing(), &sender{}
	var left time.Duration
	s.answer = func(ctx context.Context) error { left = timeLeft(ctx); return nil }
	_, failed := callBack(t, f, s)
	require.Nil(t, failed)
	assert.LessOrEqual(t, left, timing.CallbackCall)
	assert.Less(t, timing.CallbackCall+timing.AnswerMargin, timing.CallbackAttempt)
}

func TestCallbackDelay(t *testing.T) {
	for attempt, base := range map[int32]time.Duration{1: time.Second, 5: 16 * time.Second,
		11: timing.CallbackBackoff.Max, 2000: timing.CallbackBackoff.Max} {
		seen := map[time.Duration]bool{}
		for range 100 {
			d := callbackDelay(attempt, 0)
			seen[d] = true
			assert.GreaterOrEqual(t, d, base*8/10)
			assert.LessOrEqual(t, d, base*12/10)
			assert.Greater(t, callbackLease(d), d+timing.CallbackAttempt+timing.LeaseMargin/2)
		}
		assert.Greater(t, len(seen), 50, "jitter")
	}
	for range 100 {
		assert.GreaterOrEqual(t, callbackDelay(1, time.Minute), time.Minute)
		assert.LessOrEqual(t, callbackDelay(1, 48*time.Hour), outbox.MaxRetryAfter*11/10)
	}
}

func TestPublishCallbacks(t *testing.T) {
	var sent []outflow.Message
	f := &fake{publish: func(_ context.Context, m outflow.Message) (string, error) {
		sent = append(sent, m)
		return "b", nil
	}}
	s := PublishCallbacks(f)
	for _, id := range []string{"m_1_dead", "m_1_dead", "m_2_dead"} {
		require.NoError(t, s.SendCallback(t.Context(), "sqs://replies", id, "application/json", []byte("{}")))
	}
	assert.Equal(t, outflow.Message{
		ID: uuid.MustParse("971b1308-1ee0-5735-9e42-f23c02ccd21e"), Destination: "sqs://replies",
		Type: "outflow.callback", Payload: []byte("{}"),
		ContentType: "application/json", Headers: map[string]string{"callback-id": "m_1_dead"},
	}, sent[0])
	assert.Equal(t, sent[0], sent[1])
	assert.NotEqual(t, sent[0].ID, sent[2].ID)
	assert.EqualValues(t, 5, sent[0].ID.Version())
}

// A queue for replies that is being replaced is there again in a moment. Its callbacks wait, as its
// messages would.
func TestCallbackToAQueueThatIsGone(t *testing.T) {
	f, s := owing(), &sender{answer: func(context.Context) error {
		return outflow.Permanent(errors.Join(errors.New("no such queue"), outflow.ErrNoDestination))
	}}
	_, failed := callBack(t, f, s)
	require.NotNil(t, failed)
	assert.False(t, failed.NonRetryable())
	require.Len(t, f.notes, 1)
	assert.Equal(t, outbox.CallbackDue, f.notes[0].State)
}
