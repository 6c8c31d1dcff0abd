package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish/awssqs"
)

func TestParse(t *testing.T) {
	s, err := parse(nil, nil)
	require.NoError(t, err)
	require.Equal(t, settings{
		rounds: 3, messages: 1000, fastMessages: 100_000, only: variants, latency: 15 * time.Second,
		paced: 10 * time.Second, far: 20 * time.Millisecond}, s)

	s, err = parse([]string{"-rounds", "2", "-messages", "300", "-fast-messages", "4000",
		"-only", "floor,tracked", "-latency", "0",
		"-paced", "0", "-far", "0", "-growth", "2s"}, nil)
	require.NoError(t, err)
	require.Equal(t, settings{rounds: 2, messages: 300, fastMessages: 4000,
		only: []string{floor, tracked}, growth: 2 * time.Second}, s)

	var help bytes.Buffer
	_, err = parse([]string{"-help"}, &help)
	require.ErrorIs(t, err, flag.ErrHelp)
	require.Contains(t, help.String(),
		"floor,floor-two,naive,naive-eager,tracked,river,dbos,watermill,stream,queue-alone")
}

func TestParseReportsMistakesTogether(t *testing.T) {
	var usage usageError
	_, err := parse([]string{"-rounds", "0", "-messages", "-1", "-fast-messages", "0", "-latency", "-1s",
		"-paced", "-2s", "-far", "-4s", "-growth", "-3s", "-only", "floor,slow", "more"}, nil)
	require.ErrorAs(t, err, &usage)
	for _, part := range []string{"-rounds: wants", "-messages: wants", "-fast-messages: wants", "-latency: wants",
		"-paced: wants", "-far: wants", "-growth: wants", `got "slow"`,
		`unexpected argument "more"`} {
		require.ErrorContains(t, err, part)
	}
	_, err = parse([]string{"-growth", "1s", "-payloads", "-only", "floor"}, nil)
	require.ErrorContains(t, err, "-growth and -payloads: wants one of the two")
	require.ErrorContains(t, err,
		"-only: wants one of tracked, river, dbos, watermill, stream with -growth (got floor)")
	_, err = parse([]string{"-payloads", "-only", "queue-alone"}, nil)
	require.ErrorContains(t, err, "stream with -payloads (got queue-alone)")
	s, err := parse([]string{"-payloads"}, nil)
	require.NoError(t, err)
	require.True(t, s.payloads)
	_, err = parse([]string{"-wrong"}, nil)
	require.ErrorAs(t, err, &usage)
}

func TestTurn(t *testing.T) {
	require.Equal(t, variants, turn(variants, 0))
	require.Equal(t, append(slices.Clone(variants[1:]), floor), turn(variants, 1))
	require.Equal(t, variants, turn(variants, len(variants)))
	require.Equal(t, []string{tracked}, turn([]string{tracked}, 3))
}

func TestReport(t *testing.T) {
	s := settings{rounds: 3, only: []string{floor, floorTwo, tracked}}
	results := map[string][]result{
		floor: {{seconds: 1}, {seconds: 2}, {seconds: 1}},
		floorTwo: {
			{seconds: 1.5, cpu: cpu{postgres: 40 * time.Millisecond}},
			{seconds: 1.5, cpu: cpu{postgres: 190 * time.Millisecond}},
			{seconds: 1.5, cpu: cpu{postgres: 250 * time.Millisecond}},
		},
		tracked: {
			{seconds: 2, requests: 0.25, writes: 3, cpu: cpu{postgres: 100 * time.Millisecond}},
			{seconds: 2, requests: 0.5, writes: 3, cpu: cpu{postgres: 200 * time.Millisecond}},
			{seconds: 1.25, requests: 0.75, writes: 3, cpu: cpu{postgres: 300 * time.Millisecond}},
		},
	}
	for _, all := range results {
		for i := range all {
			all[i].messages = 100
		}
	}
	var out bytes.Buffer
	require.NoError(t, report(&out, s, results, ""))
	require.NoError(t, reportTriggers(&out, []waking{{
		trigger:   byWAL,
		latencies: []time.Duration{10 * time.Millisecond, 20 * time.Millisecond, 200 * time.Millisecond},
		idle:      idleCost{statements: 30, walBytes: 1000, postgres: 40 * time.Millisecond},
	}}, []time.Duration{5 * time.Millisecond, 6 * time.Millisecond, 7 * time.Millisecond}))
	require.Regexp(t, `(?m)^ *tracked +50\.0 +2\.00 +0\.00 +0\.00 +0\.00 +2\.00 +0\.50 +3\.00 *$`, out.String())
	require.Regexp(t, `(?m)^ *tracked/floor +0\.50 +1\.00 +0\.80 *$`, out.String(), "every round is shown")
	require.Regexp(t, `(?m)^ *wal +20\.0 ms +200\.0 ms +200\.0 ms +30 +1000 +40 ms +0 ms *$`, out.String())
	require.Contains(t, out.String(), "above-start wal p50 14.0 ms\nabove-start wal p99 193.0 ms\n")
	require.Regexp(t, `(?m)^ratio tracked/floor 0\.80$`, out.String(), "the median of the rounds' ratios")
	require.Regexp(t, `(?m)^ratio tracked/floor-two 0\.75$`, out.String())
	require.Regexp(t, `(?m)^value postgres-over-floor-two 0\.50$`, out.String(),
		"the median of the differences, for 1,000")
	require.NotContains(t, out.String(), naive)
}

func TestLatencies(t *testing.T) {
	at := time.Unix(100, 0)
	got, err := latencies(map[string]time.Time{"a": at},
		map[string]int64{"a": at.Add(30 * time.Millisecond).UnixNano()})
	require.NoError(t, err)
	require.Equal(t, []time.Duration{30 * time.Millisecond}, got)
	_, err = latencies(map[string]time.Time{"a": at}, nil)
	require.ErrorContains(t, err, "message a is missing")
}

func TestLinesAreReadWhole(t *testing.T) {
	l := newLines()
	for _, piece := range []string{`{"Seco`, `nds":1.5}` + "\n" + `{"Seconds":`, "2}\n"} {
		n, err := l.Write([]byte(piece))
		require.NoError(t, err)
		require.Equal(t, len(piece), n)
	}
	for _, want := range []float64{1.5, 2} {
		var got floorDone
		require.NoError(t, json.Unmarshal(<-l.next, &got))
		require.Equal(t, want, got.Seconds)
	}
}

// What naive and Outflow send is counted alike.
func TestQueuesCountWhatArrives(t *testing.T) {
	ctx := context.Background()
	server := httptest.NewServer(newQueues())
	defer server.Close()
	asked := queueClient{url: server.URL}

	n := &naiveRun{sqs: newSQS(server.URL), queueURL: server.URL + "/000000000000/"}
	one, two := uuid.New(), uuid.New()
	before := time.Now().UnixNano()
	require.NoError(t, n.Send(ctx, naiveRow{ID: one, Queue: "q", Body: "{}"}))
	require.NoError(t, n.Send(ctx, naiveRow{ID: one, Queue: "q", Body: "{}"}))
	publisher := awssqs.New(newSQS(server.URL), awssqs.WithLinger(0))
	_, err := publisher.Publish(ctx, outflow.Message{ID: two, Destination: "sqs://q", Type: "t", Payload: []byte("{}")})
	require.NoError(t, err)

	stats, err := asked.stats(ctx)
	require.NoError(t, err)
	require.Equal(t, 3, stats.Messages)
	require.Len(t, stats.Arrived, 2, "one came twice")
	require.Equal(t, 2, stats.Different)
	require.Equal(t, stats.Arrived[two.String()], stats.Last)
	counts, err := asked.counts(ctx)
	require.NoError(t, err)
	require.Nil(t, counts.Arrived)
	require.Equal(t, stats.Last, counts.Last)
	require.Equal(t, 4, stats.Requests, "two of naive's, and a look-up and a batch")
	for _, id := range []uuid.UUID{one, two} {
		require.Greater(t, stats.Arrived[id.String()], before)
	}

	asked.delay = 50 * time.Millisecond
	require.NoError(t, asked.reset(ctx))
	stats, err = asked.stats(ctx)
	require.NoError(t, err)
	require.Zero(t, stats.Requests)
	require.Empty(t, stats.Arrived)
	began := time.Now()
	_, err = newSQS(server.URL).GetQueueUrl(ctx, &sqs.GetQueueUrlInput{QueueName: aws.String("fresh")})
	require.NoError(t, err)
	require.GreaterOrEqual(t, time.Since(began), asked.delay)
}
