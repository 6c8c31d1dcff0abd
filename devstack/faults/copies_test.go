package faults

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow/publish/awssqs"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

// The times of these tests are in milliseconds since the first copy came.
var began = time.Now().Add(-time.Minute)

func after(ms int) time.Time { return began.Add(time.Duration(ms) * time.Millisecond) }

// sent is one message's copy: from whom, when it came and when it was answered.
func sent(id uuid.UUID, caller string, received, answered int) fakesqs.Acceptance {
	return fakesqs.Acceptance{
		Entry:  fakesqs.Entry{MessageAttributes: map[string]fakesqs.Attribute{awssqs.AttributeMessageID: {StringValue: id.String()}}},
		Caller: caller, Received: after(received), Answered: after(answered),
	}
}

func TestJudge(t *testing.T) {
	id := uuid.New()
	twice := func(second int, caller string) []fakesqs.Acceptance {
		return []fakesqs.Acceptance{sent(id, "a", 0, 60), sent(id, caller, second, second+60)}
	}
	for name, c := range map[string]struct {
		copies      []fakesqs.Acceptance
		marked      int
		cause       Cause
		atRisk      int
		unexplained int
	}{
		"once, and nothing happened":  {twice(0, "a")[:1], 100, Cause{}, 0, 0},
		"twice, and nothing happened": {twice(1000, "b"), 1100, Cause{}, 0, 1},
		"its process was killed": {twice(10_000, "b"), 10_100,
			Cause{Risk: ProcessLost, Caller: "a", From: after(20), To: after(30)}, 1, 0},
		"another process was killed": {twice(10_000, "b"), 10_100,
			Cause{Risk: ProcessLost, Caller: "c", From: after(20), To: after(30)}, 0, 1},
		"its process was killed before": {twice(10_000, "b"), 10_100,
			Cause{Risk: ProcessLost, Caller: "a", From: after(-900), To: after(-800)}, 0, 1},
		"its process was killed after the mark": {twice(0, "a")[:1], 100,
			Cause{Risk: ProcessLost, Caller: "a", From: after(900), To: after(900)}, 0, 0},
		"killed while it was in flight, to no effect": {twice(0, "a")[:1], 100,
			Cause{Risk: ProcessLost, Caller: "a", From: after(50), To: after(60)}, 1, 0},
		"killed after the second copy": {twice(1000, "b"), 9000,
			Cause{Risk: ProcessLost, Caller: "a", From: after(5000), To: after(5000)}, 0, 1},
		"resumed beside another": {[]fakesqs.Acceptance{sent(id, "a", 0, 60), sent(id, "b", 3000, 3060)}, 100,
			Cause{Risk: ProcessLost, Caller: "b", From: after(-10_000), To: after(2500)}, 1, 0},
		"its answer was lost": {twice(3000, "a"), 3100,
			Cause{Risk: AnswersLost, From: after(40), To: after(5000)}, 1, 0},
		"answers were lost later": {twice(3000, "a"), 3100,
			Cause{Risk: AnswersLost, From: after(900), To: after(1500)}, 0, 1},
		"its run was given away": {twice(11_000, "b"), 11_100,
			Cause{Risk: EngineLost, From: after(500), To: after(4000)}, 1, 0},
		"no time to give it away": {twice(1000, "b"), 1100,
			Cause{Risk: EngineLost, From: after(500), To: after(4000)}, 0, 1},
		"marked while Temporal was away": {twice(0, "a")[:1], 100,
			Cause{Risk: EngineLost, From: after(-500), To: after(4000)}, 0, 0},
		"a fault that sends nothing twice": {twice(3000, "a"), 3100,
			Cause{Risk: NoRisk, From: after(-500), To: after(4000)}, 0, 1},
		"answered too late": {[]fakesqs.Acceptance{sent(id, "a", 0, 2600), sent(id, "a", 3600, 3660)},
			3700, Cause{}, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			c.cause.Name = "it"
			copies := copiesOf(c.copies, map[uuid.UUID]time.Time{id: after(c.marked)}, time.Now())
			v := Judge(copies, []Cause{c.cause})
			if v.AtRisk != c.atRisk || len(v.Unexplained) != c.unexplained || v.Duplicates != len(c.copies)-1 {
				t.Errorf("%+v, the cause's share %+v", v, v.Causes["it"])
			}
		})
	}
}

func TestJudgeCountsEachMessageOnce(t *testing.T) {
	id := uuid.New()
	cut := sent(id, "a", 0, 60)
	cut.Cut = true
	again := sent(id, "a", 1000, 1060)
	again.Deduplicated = true
	copies := copiesOf([]fakesqs.Acceptance{again, cut}, nil, time.Now())
	kill := func(at int) Cause {
		return Cause{Name: "kill", Risk: ProcessLost, Caller: "a", From: after(at), To: after(at)}
	}
	v := Judge(copies, []Cause{kill(10), kill(20), kill(1010)})
	if v.AtRisk != 1 || v.Duplicates != 1 || v.Hidden != 1 || len(v.Unexplained) != 0 {
		t.Errorf("%+v", v)
	}
	if got := *v.Causes["kill"]; got != (Share{Times: 3, AtRisk: 1, Duplicates: 1}) {
		t.Errorf("kills: %+v", got)
	}
	if got := *v.Causes[Unheard]; got != (Share{Times: 1, AtRisk: 1, Duplicates: 1}) {
		t.Errorf("unheard: %+v", got)
	}
}

func TestHeldBy(t *testing.T) {
	id := uuid.New()
	copies := copiesOf([]fakesqs.Acceptance{sent(id, "a", 0, 60), sent(id, "b", 5000, 5060)},
		map[uuid.UUID]time.Time{id: after(5100)}, time.Now())[id]
	for _, c := range []struct {
		copy      int
		caller    string
		since, at int
		held      bool
	}{
		{0, "a", -9000, -2000, false}, // before it was sent
		{0, "a", -9000, 30, true},
		{0, "a", -9000, 4000, true},
		{0, "a", 1000, 4000, false}, // another process of that name had sent it
		{0, "b", -9000, 4000, false},
		{0, "a", -9000, 5050, false}, // the next copy came
		{1, "b", -9000, 5050, true},
		{1, "b", -9000, 5200, false}, // it was marked
	} {
		if held := copies[c.copy].HeldBy(c.caller, after(c.since), after(c.at)); held != c.held {
			t.Errorf("copy %d, by %s since %d ms at %d ms: %t", c.copy, c.caller, c.since, c.at, held)
		}
	}
}
