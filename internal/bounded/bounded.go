// Package bounded reads files and streams that a user names. They may be /dev/zero, or a stream
// that never ends.
//
// The invariant: no more than the limit is ever in memory.
package bounded

import (
	"fmt"
	"io"
	"os"
)

// TooLargeError says that there is more than the limit.
type TooLargeError struct {
	Limit int64 // bytes
}

func (e *TooLargeError) Error() string { return fmt.Sprintf("wants at most %d bytes", e.Limit) }

// ReadFile reads a whole file of at most limit bytes; for a larger file it returns a TooLargeError.
// Its other errors are those of os.ReadFile.
func ReadFile(name string, limit int64) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return ReadAll(file, limit)
}

// ReadAll reads r to its end, which comes after limit bytes at most; otherwise it returns a
// TooLargeError.
func ReadAll(r io.Reader, limit int64) ([]byte, error) {
	content, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(content)) > limit {
		return nil, &TooLargeError{limit}
	}
	return content, nil
}
