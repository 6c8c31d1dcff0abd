package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/outflowhq/outflow/devstack/faults"
)

const (
	// tellingRate is the load beside the kills, in messages with callbacks a second:
	// with the shots, less than half of what two cores can do.
	tellingRate = 6
	// killEvery lies between two kills. What a kill leaves behind takes half a minute.
	killEvery = 4 * time.Second
	// toldWithin bounds the wait for the last callback.
	toldWithin = 8 * time.Minute
)

// callback kills programs between publish, mark and callback, at each point in
// turn, and says what became of messages and callbacks.
func callback(ctx context.Context, c *chaos) error {
	w, err := faults.NewWorld(ctx, c.stack, "callback")
	if err != nil {
		return err
	}
	defer w.Close()
	w.AnswersIn(answers)
	a, err := faults.NewAmbush(ctx, c.stack, w, c.programs)
	if err != nil {
		return err
	}
	errs := []error{c.ambush(ctx, a)}
	for _, agent := range a.Agents {
		errs = append(errs, agent.Stop(), os.WriteFile(filepath.Join(c.stack.Logs(), "callback-"+agent.ID+".log"),
			[]byte(agent.Said()), 0o644))
	}
	return errors.Join(append(errs, a.Close())...)
}

func (c *chaos) ambush(ctx context.Context, a *faults.Ambush) error {
	load := a.StartLoad(tellingRate)
	err := a.Run(ctx, faults.Moments, c.kills, killEvery, c.say)
	load.Stop()
	// Also where the run was interrupted: a second Ctrl-C ends at once.
	settling, cancel := context.WithTimeout(context.WithoutCancel(ctx), toldWithin)
	defer cancel()
	report, settleErr := a.Settle(settling, load)
	if report == nil {
		return errors.Join(err, settleErr)
	}
	for _, line := range report.Lines {
		c.result("%s", line)
	}
	c.result("time to the last callback after the load %s", report.Drain.Round(10*time.Millisecond))
	return errors.Join(err, settleErr, report.Err())
}
