package publishtest

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
)

func payloadsArrive(t *testing.T, h Harness) {
	p, destination := h.Publisher(t), h.Destination(t)
	for name, payload := range map[string]string{
		"JSON":          `{"name":"Åsa","emoji":"🦉"}`,
		"one byte":      "x",
		"white space":   " \t\r\n ",
		"NUL":           "a\x00b",
		"controls":      "\x01\x1f\x7f\u0085",
		"invalid UTF-8": "\xff\xfe caf\xe9",
		"non-character": "\uFFFE and \uFFFF",
		"replacement":   "\uFFFD",
		"surrogate":     "\xed\xa0\x80",
		"looks encoded": "aGVsbG8=",
		"XML":           `<a b="c">&amp;]]></a>`,
		"100 kB":        strings.Repeat("0123456789", 10_000),
	} {
		t.Run(name, func(t *testing.T) {
			m := message(destination)
			m.Payload = []byte(payload)
			assert.Equal(t, carried(m), arrives(t, h, p, m))
		})
	}
}

func typesArrive(t *testing.T, h Harness) {
	p, destination := h.Publisher(t), h.Destination(t)
	m := message(destination)
	m.Type, m.ContentType = "a.b_c:d/e-f", `text/plain; charset="utf-8"`
	assert.Equal(t, carried(m), arrives(t, h, p, m))

	m = message(destination)
	m.ContentType = ""
	assert.Equal(t, carried(m), arrives(t, h, p, m), "the default content type")
}

func publishedAgain(t *testing.T, h Harness) {
	p, destination := h.Publisher(t), h.Destination(t)
	m := message(destination)
	_, err := p.Publish(t.Context(), m)
	require.NoError(t, err)
	_, err = p.Publish(t.Context(), m)
	require.NoError(t, err, "publishing again is no error")
	for _, got := range h.Receive(t, destination, 2) {
		assert.Equal(t, m.ID, got.ID, "a duplicate carries the same ID")
	}
}

func headersArrive(t *testing.T, h Harness) {
	p, destination := h.Publisher(t), h.Destination(t)
	trace := "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for name, headers := range map[string]map[string]string{
		"one":         {"tenant": "acme"},
		"fifteen":     many(15, 20),
		"sixty-four":  many(64, 1000),
		"largest":     many(2, largestHeader),
		"trace":       {"traceparent": trace, "tracestate": "a=b"},
		"empty value": {"tenant": "", "other": "x"},
		"odd values": {
			"a": "line\nbreak", "b": "Åsa 🦉", "c": `"quoted" \ & <tag>`, "d": "\uFFFE\uFFFF", "e": "\x01",
		},
		"odd names": {"Content-Type": "a", "content-type": "b", "A": "1", "a": "2", "_": "3", "-": "4"},
	} {
		t.Run(name, func(t *testing.T) {
			m := message(destination)
			m.Headers = headers
			assert.Equal(t, carried(m), arrives(t, h, p, m))
		})
	}
}

// mostHeaders and largestHeader are the enqueue's limits: see outflow.Message.
const mostHeaders, largestHeader = 64, 8 << 10

func many(n, size int) map[string]string {
	headers := map[string]string{}
	for i := range n {
		headers[fmt.Sprintf("x-header.%02d", i)] = strings.Repeat("v", size)
	}
	return headers
}

// headersAtTheLimit: the broker takes the most and the largest headers, or refuses that message
// alone.
func headersAtTheLimit(t *testing.T, h Harness) {
	p, destination := h.Publisher(t), h.Destination(t)
	m := message(destination)
	m.Headers = many(mostHeaders, largestHeader)
	if _, err := p.Publish(t.Context(), m); err != nil {
		failsAs(t, outflow.ClassPermanent, err)
		t.Logf("the broker takes less: %v", err)
	} else {
		got := h.Receive(t, destination, 1)
		require.Len(t, got, 1)
		assert.Equal(t, carried(m), got[0])
	}
	m = message(destination)
	assert.Equal(t, carried(m), arrives(t, h, p, m), "the next message")
}

// concurrentPublishes: each call gets its own message's answer.
func concurrentPublishes(t *testing.T, h Harness) {
	p, destination := h.Publisher(t), h.Destination(t)
	const n = 60
	ids := make([]string, n)
	sent := map[uuid.UUID]outflow.Message{}
	var wg sync.WaitGroup
	for i := range n {
		m := message(destination)
		sent[m.ID] = m
		wg.Go(func() {
			id, err := p.Publish(t.Context(), m)
			assert.NoError(t, err)
			ids[i] = id
		})
	}
	wg.Wait()
	haveIDs(t, ids)
	got := h.Receive(t, destination, n)
	assert.Len(t, got, n)
	for _, m := range got {
		assert.Equal(t, carried(sent[m.ID]), m)
		delete(sent, m.ID)
	}
	assert.Empty(t, sent, "missing")
}

// haveIDs checks that each message has a broker message ID of its own, or none has any.
func haveIDs(t *testing.T, ids []string) {
	t.Helper()
	distinct := map[string]bool{}
	for _, id := range ids {
		distinct[id] = true
	}
	if len(distinct) == 1 && distinct[""] {
		return // the broker gives none
	}
	assert.Len(t, distinct, len(ids), "each message has a broker message ID of its own")
}
