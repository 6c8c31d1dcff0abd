package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/operator"
)

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
		require.NoError(t, s.act(t.Context(), at("", io.Discard, io.Discard), from,
			func(ctx context.Context, ids []uuid.UUID) ([]operator.Answer, error) {
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
		assert.Equal(t, `{"id":"0198f3a2-5b1c-7000-8000-000000000001","verdict":"done","text":"done"}`+"\n",
			out.String())
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
			err := s.act(t.Context(), at("", &out, io.Discard), nil,
				func(context.Context, []uuid.UUID) (answers []operator.Answer, _ error) {
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
