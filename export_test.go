package outflow

// CallbackBody is what a callback's JSON is read into.
type CallbackBody = callbackBody
