package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/outflowhq/outflow/publish/awssqs"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

// The queue service's own pages, beside SQS's protocol.
const (
	resetPath = "/bench/reset"
	statsPath = "/bench/stats"
	// countsPath has no Arrived.
	countsPath = "/bench/counts"
	marksPath  = "/bench/marks"
)

// markEvery is how many arrivals there are from one mark to the next.
const markEvery = 100

// queueMemory is when the queue service collects its garbage, in bytes. What it keeps is a tenth of
// that with a million messages.
const queueMemory = 2 << 30

// queueReady is what the queue service's process reports.
type queueReady struct{ URL string }

// queueStats is what the queue service has seen since its last reset.
type queueStats struct {
	// Requests counts all of SQS's protocol, look-ups included.
	Requests int
	// Messages counts what was sent, Different the message IDs. Last is when the last of these came:
	// Unix nanoseconds, once it was accepted.
	Messages, Different int
	Last                int64
	// Arrived is when each message ID first came.
	Arrived map[string]int64 `json:",omitempty"`
}

// queuePart is the queue service of every variant, in memory.
func queuePart(ctx context.Context, _ []string, stdout io.Writer) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listening for the queue service: %w", err)
	}
	// To collect garbage would take CPU from the variant that is measured.
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(queueMemory)
	server := &http.Server{Handler: newQueues()}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	if err := reportLine(stdout, queueReady{URL: "http://" + listener.Addr().String()}); err != nil {
		return err
	}
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving queues: %w", err)
	}
	return nil
}

// queues counts what goes through a fake SQS. A reset puts a new one in its place.
type queues struct {
	mu    sync.Mutex
	sqs   *fakesqs.Server
	stats queueStats
	marks []int64
}

func newQueues() *queues {
	q := &queues{}
	q.reset(0)
	return q
}

// reset empties the queues, and collects the garbage of the variant before. From then on each answer comes
// after a delay.
func (q *queues) reset(delay time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	// It keeps neither messages nor requests.
	q.sqs = &fakesqs.Server{AutoCreate: true, Forgets: true, Drops: true}
	if delay > 0 {
		q.sqs.Inject(fakesqs.Fault{Delay: delay})
	}
	q.stats = queueStats{Arrived: map[string]int64{}}
	q.marks = nil
	runtime.GC()
}

func (q *queues) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case resetPath:
		delay, err := time.ParseDuration(r.URL.Query().Get("delay"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		q.reset(delay)
		return
	case statsPath, countsPath:
		q.mu.Lock()
		defer q.mu.Unlock()
		stats := q.stats
		if r.URL.Path == countsPath {
			stats.Arrived = nil
		}
		_ = json.NewEncoder(w).Encode(stats) // a client that is gone needs no answer
		return
	}
	if r.URL.Path == marksPath {
		q.mu.Lock()
		defer q.mu.Unlock()
		_ = json.NewEncoder(w).Encode(q.marks)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client is gone
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	q.mu.Lock()
	q.stats.Requests++
	sqs := q.sqs
	q.mu.Unlock()
	sqs.ServeHTTP(w, r)
	if strings.HasPrefix(r.Header.Get("X-Amz-Target"), "AmazonSQS.SendMessage") {
		q.note(messageIDs(body), time.Now())
	}
}

func (q *queues) note(ids []string, now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stats.Messages += len(ids)
	for _, id := range ids {
		if _, seen := q.stats.Arrived[id]; seen {
			continue
		}
		q.stats.Arrived[id] = now.UnixNano()
		q.stats.Different, q.stats.Last = len(q.stats.Arrived), now.UnixNano()
		if q.stats.Different%markEvery == 0 {
			q.marks = append(q.marks, now.UnixNano())
		}
	}
}

// messageIDs are those of a SendMessage or a SendMessageBatch. It looks for the attribute alone: to read
// the request a second time would cost the queue service a third of its CPU.
func messageIDs(body []byte) (ids []string) {
	attribute, value := []byte(`"`+awssqs.AttributeMessageID+`":{`), []byte(`"StringValue":"`)
	for {
		_, rest, found := bytes.Cut(body, attribute)
		if !found {
			return ids
		}
		_, rest, _ = bytes.Cut(rest, value)
		id, rest, _ := bytes.Cut(rest, []byte(`"`))
		ids, body = append(ids, string(id)), rest
	}
}

// queueClient is the queue service as bench asks it.
type queueClient struct {
	url   string
	delay time.Duration // of each answer
}

func (c queueClient) reset(ctx context.Context) error {
	return c.get(ctx, resetPath+"?delay="+c.delay.String(), nil)
}

func (c queueClient) stats(ctx context.Context) (queueStats, error) {
	var s queueStats
	return s, c.get(ctx, statsPath, &s)
}

// counts are the stats without the time of each message.
func (c queueClient) counts(ctx context.Context) (queueStats, error) {
	var s queueStats
	return s, c.get(ctx, countsPath, &s)
}

// marks are the times of each markEvery-th arrival.
func (c queueClient) marks(ctx context.Context) (marks []int64, err error) {
	return marks, c.get(ctx, marksPath, &marks)
}

func (c queueClient) get(ctx context.Context, path string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+path, nil)
	if err != nil {
		return fmt.Errorf("asking the queue service: %w", err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("asking the queue service: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("asking the queue service for %s: it answers %s", path, answer.Status)
	}
	if into == nil {
		return nil
	}
	if err := json.NewDecoder(answer.Body).Decode(into); err != nil {
		return fmt.Errorf("reading the queue service's answer: %w", err)
	}
	return nil
}
