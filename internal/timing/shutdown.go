package timing

import "time"

// The steps of a daemon's shutdown, in their order, and how long each may take. docs/running.md
// has them as a table.
const (
	// StopClaim is what a claim under way has left. Cut off, it might have claimed messages that
	// nobody knows of until their lease is over.
	StopClaim = 2 * time.Second
	// StopStarts is what starts under way have left. A start that is cut off then is given back.
	StopStarts = 5 * time.Second
	// StopFastPaths is what started runs have left: TakeOver, and one workflow task.
	StopFastPaths = TakeOver + WorkflowTask
	// StopTasks is what the workflow tasks of a worker without a scanner have left: a local
	// publish, a local mark, and their answer.
	StopTasks = LocalPublish + LocalMark + time.Second
	// StopCalls is what a stopping worker waits beyond the longest call that its settings allow,
	// for the end of that call to be written.
	StopCalls = 5 * time.Second
	// StopSpans is what the last spans have left, where there is an exporter.
	StopSpans = 5 * time.Second
	// StopProbes is what answers to probes have left. Nothing is lost without them.
	StopProbes = 3 * time.Second

	// TakeOver is how soon an eagerly started run takes its message over from the claim.
	TakeOver = time.Second
)

// StopStarter returns the longest time that a starter takes to stop, apart from StopProbes.
// longestCall is the longest that its settings allow to a broker or a receiver.
func StopStarter(longestCall time.Duration) time.Duration {
	return StopClaim + StopStarts + StopFastPaths + longestCall + StopCalls + StopSpans
}

// StopWorker is StopStarter for a worker without a scanner.
func StopWorker(longestCall time.Duration) time.Duration {
	return StopTasks + longestCall + StopCalls + StopSpans
}
