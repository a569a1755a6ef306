package qmp

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// MaxMessage is the longest line accepted from a monitor, in bytes. The longest that QEMU sends without being asked for a
// schema is a few kB.
const MaxMessage = 1 << 20

// ErrProtocol: the other side does not speak QMP, or sent a line longer than MaxMessage.
var ErrProtocol = errors.New("not the QEMU machine protocol")

// Error is a command that the monitor refused.
type Error struct {
	// Command is what was asked for.
	Command string
	// Class is "GenericError", or "CommandNotFound" and a few more (QEMU, qapi/error.json).
	Class string
	// Desc is QEMU's sentence for people.
	Desc string
}

// Error says what was refused and why.
func (e *Error) Error() string {
	return fmt.Sprintf("the monitor refused %s: %s (%s)", e.Command, e.Desc, e.Class)
}

// Unknown reports whether the error is that the monitor does not know the command.
func Unknown(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Class == "CommandNotFound"
}

// Version is what the monitor said it is.
type Version struct {
	Major   int    `json:"major"`
	Minor   int    `json:"minor"`
	Micro   int    `json:"micro"`
	Package string `json:"-"`
}

// Notice is an event as the monitor sends it.
type Notice struct {
	// Name is in capitals: "STOP", "MIGRATION".
	Name string
	// Time is the host's wall clock when it happened, to the microsecond; zero when the monitor has none.
	Time time.Time
	// Data are its arguments as JSON; may be empty.
	Data json.RawMessage
}

// message is one line from a monitor. Exactly one of greeting, notice, reply and refusal is set.
type message struct {
	greeting *Version
	notice   *Notice
	// id is that of the command a reply or refusal answers; 0 when the monitor could not tell.
	id      uint64
	reply   json.RawMessage
	refusal *Error
}

// wire is the JSON of every kind of message.
type wire struct {
	QMP *struct {
		Version struct {
			QEMU    Version `json:"qemu"`
			Package string  `json:"package"`
		} `json:"version"`
	} `json:"QMP"`
	Event     string          `json:"event"`
	Data      json.RawMessage `json:"data"`
	Timestamp struct {
		Seconds      int64 `json:"seconds"`
		Microseconds int64 `json:"microseconds"`
	} `json:"timestamp"`
	ID     json.RawMessage `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
}

// decode reads one line. The line comes from another process and is not trusted.
func decode(line []byte) (message, error) {
	var w wire
	if err := json.Unmarshal(line, &w); err != nil {
		return message{}, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	var m message
	switch {
	case w.QMP != nil:
		v := w.QMP.Version.QEMU
		v.Package = w.QMP.Version.Package
		m.greeting = &v
	case w.Event != "":
		m.notice = &Notice{Name: w.Event, Data: w.Data}
		if t := w.Timestamp; t.Seconds > 0 && t.Microseconds >= 0 && t.Microseconds < 1e6 {
			m.notice.Time = time.Unix(t.Seconds, t.Microseconds*1000)
		}
	case w.Error != nil:
		m.refusal = &Error{Class: w.Error.Class, Desc: strings.ToValidUTF8(w.Error.Desc, "�")}
	case w.Return != nil:
		m.reply = w.Return
	default:
		return message{}, fmt.Errorf("%w: a message that is no greeting, event, return or error", ErrProtocol)
	}
	if len(w.ID) > 0 && (m.reply != nil || m.refusal != nil) {
		if err := json.Unmarshal(w.ID, &m.id); err != nil {
			return message{}, fmt.Errorf("%w: an answer to %.40s, which was never asked", ErrProtocol, w.ID)
		}
	}
	return m, nil
}

// readLine returns the next line without its end. It never holds more than MaxMessage bytes.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > MaxMessage {
			return nil, fmt.Errorf("%w: a line longer than %d bytes", ErrProtocol, MaxMessage)
		}
		line = append(line, part...)
		if err == nil {
			return line, nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
	}
}
