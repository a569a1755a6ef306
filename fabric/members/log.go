package members

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
)

// logWriter turns memberlist's lines, "[WARN] memberlist: text", into records one level quieter: what gossip finds
// alarming is mostly a host that restarts.
type logWriter struct {
	log *slog.Logger
}

// Write implements io.Writer; it never fails.
func (w logWriter) Write(line []byte) (int, error) {
	text := string(bytes.TrimSpace(line))
	level := slog.LevelDebug
	if word, rest, ok := strings.Cut(text, "] "); ok && strings.HasPrefix(word, "[") {
		text = rest
		switch word {
		case "[ERR", "[ERROR":
			level = slog.LevelWarn
		case "[WARN":
			level = slog.LevelInfo
		}
	}
	w.log.Log(context.Background(), level, "gossip: "+strings.TrimPrefix(text, "memberlist: "))
	return len(line), nil
}
