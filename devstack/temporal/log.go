package temporal

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"go.temporal.io/server/common/log"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

type serverLogger = log.Logger

// logFile takes the server's warnings and errors. What is fatal ends the process, so it is said on
// stderr too.
type logFile struct {
	file *closable
	zap  *zap.Logger
}

// closable drops what is written after its end: goroutines of a stopped server still log for a
// moment.
type closable struct {
	mu   sync.Mutex
	file *os.File // nil after the end
}

func (c *closable) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.file == nil {
		return len(b), nil
	}
	return c.file.Write(b)
}

func (c *closable) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.file.Close() // lines are written unbuffered: nothing is lost by a failed close
	c.file = nil
}

func openLog(path string) (*logFile, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("making the folder of Temporal's log: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening Temporal's log: %w", err)
	}
	file := &closable{file: f}
	encoder := zapcore.NewJSONEncoder(log.DefaultZapEncoderConfig)
	return &logFile{file: file, zap: zap.New(zapcore.NewTee(
		zapcore.NewCore(encoder, zapcore.AddSync(file), zapcore.WarnLevel),
		zapcore.NewCore(encoder, zapcore.Lock(os.Stderr), zapcore.DPanicLevel),
	))}, nil
}

func (l *logFile) logger() serverLogger { return log.NewZapLogger(l.zap) }

func (l *logFile) close() { l.file.close() }
