package outflow

// NoCallback as a message's Callback says that nobody is told of its end, whatever
// rules an operator has set for messages without one.
const NoCallback = "none"

// MaxCallbackPayload is the longest payload in bytes that a callback carries. In
// JSON it is at most three times as long, which leaves room below the 1 MiB of SQS.
const MaxCallbackPayload = 256 << 10
