package proc

import (
	"bytes"
	"os"
)

// LogSince is what a log says from a place on, for an error message: its end where it is long.
func LogSince(path string, from int64) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	b = b[min(int(from), len(b)):]
	const most = 2000
	return string(bytes.TrimSpace(b[max(len(b)-most, 0):]))
}
