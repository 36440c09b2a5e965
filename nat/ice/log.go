package ice

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/pion/logging"
	"github.com/pion/transport/v2"
)

// logFactory and pionLog pass pion's messages on at debug level: what it calls a warning (a stray answer, a pair that was given up) is
// everyday here, and whoever retries logs the outcome.
type logFactory struct{ log *slog.Logger }

func (f logFactory) NewLogger(scope string) logging.LeveledLogger {
	return pionLog{f.log.With("library", "pion/"+scope)}
}

type pionLog struct{ log *slog.Logger }

func (l pionLog) write(s string) { l.log.Debug(s) }

func (l pionLog) writef(format string, args ...any) {
	if strings.Contains(format, "Pwd") {
		return // a session's password: whoever has it can forge its checks
	}
	if l.log.Enabled(context.Background(), slog.LevelDebug) {
		l.log.Debug(fmt.Sprintf(format, args...))
	}
}

func (l pionLog) Trace(string)                      {}
func (l pionLog) Tracef(string, ...any)             {}
func (l pionLog) Debug(s string)                    { l.write(s) }
func (l pionLog) Debugf(format string, args ...any) { l.writef(format, args...) }
func (l pionLog) Info(s string)                     { l.write(s) }
func (l pionLog) Infof(format string, args ...any)  { l.writef(format, args...) }
func (l pionLog) Warn(s string)                     { l.write(s) }
func (l pionLog) Warnf(format string, args ...any)  { l.writef(format, args...) }
func (l pionLog) Error(s string)                    { l.write(s) }
func (l pionLog) Errorf(format string, args ...any) { l.writef(format, args...) }

// noNet keeps pion from reading the system's interfaces twice for each session: all addresses come from Config.Local.
type noNet struct{ transport.Net }

func (noNet) Interfaces() ([]*transport.Interface, error) { return nil, nil }
