package qmp

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"
)

// fake is a monitor whose answers a test decides.
type fake struct {
	tb       testing.TB
	path     string
	listener net.Listener
	// answer returns the lines to send for a command; ID is put in for %d.
	answer func(command string) []string

	mu       sync.Mutex
	conn     net.Conn
	commands []string
}

const greeting = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}`

// newFake listens in a directory of the test.
func newFake(tb testing.TB, answer func(command string) []string) *fake {
	tb.Helper()
	f := &fake{tb: tb, path: filepath.Join(tb.TempDir(), "qmp"), answer: answer}
	l, err := net.Listen("unix", f.path)
	if err != nil {
		tb.Fatal(err)
	}
	f.listener = l
	tb.Cleanup(f.die)
	go f.serve()
	return f
}

// die closes everything, as the end of the process does.
func (f *fake) die() {
	f.listener.Close()
	f.hangUp()
}

// hangUp closes the connection of the moment.
func (f *fake) hangUp() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.conn != nil {
		f.conn.Close()
	}
}

// say sends a line that nobody asked for.
func (f *fake) say(line string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fmt.Fprintf(f.conn, "%s\r\n", line)
}

func (f *fake) serve() {
	for {
		conn, err := f.listener.Accept()
		if err != nil {
			return
		}
		f.mu.Lock()
		f.conn = conn
		f.mu.Unlock()
		fmt.Fprintf(conn, "%s\r\n", greeting)
		lines := bufio.NewScanner(conn)
		for lines.Scan() {
			var c struct {
				Execute string `json:"execute"`
				ID      uint64 `json:"id"`
			}
			if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
				f.tb.Errorf("the client sent %q: %v", lines.Text(), err)
				return
			}
			f.mu.Lock()
			f.commands = append(f.commands, c.Execute)
			f.mu.Unlock()
			out := []string{`{"return": {}, "id": %d}`}
			if f.answer != nil {
				if special := f.answer(c.Execute); special != nil {
					out = special
				}
			}
			for _, line := range out {
				if line == "hang up" {
					conn.Close()
					continue
				}
				if json.Valid([]byte(line)) {
					fmt.Fprintf(conn, "%s\r\n", line)
				} else {
					fmt.Fprintf(conn, line+"\r\n", c.ID)
				}
			}
		}
		conn.Close()
	}
}
