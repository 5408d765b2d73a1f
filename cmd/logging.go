package cmd

import (
	"io"
	"log/slog"

	"github.com/spf13/pflag"
)

// logFlags are the flags every long-running command takes.
type logFlags struct{ level, format string }

func (l *logFlags) register(f *pflag.FlagSet) {
	f.StringVar(&l.level, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&l.format, "log-format", "text", "text or json")
}

// logger writes to w, which is standard error: standard output is for answers.
func (l *logFlags) logger(w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.level)); err != nil {
		return nil, usagef("log-level %q: one of debug, info, warn, error", l.level)
	}
	o := &slog.HandlerOptions{Level: level}
	switch l.format {
	case "text":
		return slog.New(slog.NewTextHandler(w, o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, o)), nil
	}
	return nil, usagef("log-format %q: text or json", l.format)
}
