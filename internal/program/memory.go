package program

import "runtime/debug"

const (
	// garbagePercent lets a daemon's heap grow to three times what is in use. A daemon that sends ten
	// thousand messages a second makes some hundred megabytes of garbage a second, of 20 MiB in use.
	garbagePercent = 200
	// memoryLimit is where garbage is collected as often as it must be, in bytes.
	memoryLimit = 384 << 20
)

// CollectGarbageSeldom trades a daemon's memory for CPU, unless Go's own variables GOGC or GOMEMLIMIT say
// how much it may have.
func CollectGarbageSeldom(getenv func(string) string) {
	if getenv("GOGC") != "" || getenv("GOMEMLIMIT") != "" {
		return
	}
	debug.SetGCPercent(garbagePercent)
	debug.SetMemoryLimit(memoryLimit)
}
