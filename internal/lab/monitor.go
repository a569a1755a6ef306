package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"
)

// monitor speaks the server's side of QMP (QEMU Machine Protocol, docs/interop/qmp-spec): one JSON object a line, a
// greeting, capabilities negotiation, answers with the id of the command, events to everybody.
type monitor struct {
	commands map[string]command

	mu      sync.Mutex
	clients map[*monitorClient]struct{}
}

// command carries out one QMP command; what it returns is the answer.
type command func(arguments json.RawMessage) (any, error)

// errUnknownCommand has the class QEMU gives commands it does not know.
var errUnknownCommand = errors.New("CommandNotFound")

type monitorClient struct {
	conn       net.Conn
	writing    sync.Mutex
	negotiated bool // guarded by monitor.mu
}

// serve answers on a unix socket until ctx ends, one client at a time, as QEMU does: the next one waits.
func (m *monitor) serve(ctx context.Context, path string) error {
	_ = os.Remove(path)
	listener, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("open the monitor: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("serve the monitor %s: %w", path, err)
		}
		m.talk(ctx, conn)
	}
}

// talk serves one client.
func (m *monitor) talk(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	c := &monitorClient{conn: conn}
	m.mu.Lock()
	m.clients[c] = struct{}{}
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		delete(m.clients, c)
		m.mu.Unlock()
	}()
	version := map[string]any{"qemu": map[string]int{"major": 7, "minor": 2, "micro": 0}, "package": "weft pump"}
	c.send(map[string]any{"QMP": map[string]any{"version": version, "capabilities": []string{}}})
	lines := bufio.NewScanner(conn)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if len(lines.Bytes()) > 0 {
			c.send(m.answer(c, lines.Bytes()))
		}
	}
}

// answer carries out one line.
func (m *monitor) answer(c *monitorClient, line []byte) map[string]any {
	var request struct {
		Execute   string          `json:"execute"`
		Arguments json.RawMessage `json:"arguments"`
		ID        json.RawMessage `json:"id"` // any value, and echoed as it is
	}
	reply := map[string]any{}
	result, err := any(struct{}{}), json.Unmarshal(line, &request)
	switch do, known := m.commands[request.Execute]; {
	case err != nil:
		err = fmt.Errorf("read the command: %w", err)
	case request.Execute == "qmp_capabilities":
		m.mu.Lock()
		c.negotiated = true
		m.mu.Unlock()
	case !known:
		err = fmt.Errorf("the command %s has not been found: %w", request.Execute, errUnknownCommand)
	default:
		result, err = do(request.Arguments)
	}
	if len(request.ID) > 0 {
		reply["id"] = request.ID
	}
	switch {
	case errors.Is(err, errUnknownCommand):
		reply["error"] = map[string]string{"class": "CommandNotFound", "desc": err.Error()}
	case err != nil:
		reply["error"] = map[string]string{"class": "GenericError", "desc": err.Error()}
	case result == nil:
		reply["return"] = struct{}{}
	default:
		reply["return"] = result
	}
	return reply
}

// event tells every client that has finished negotiation.
func (m *monitor) event(name string, data any) {
	now := time.Now()
	message := map[string]any{
		"event":     name,
		"timestamp": map[string]int64{"seconds": now.Unix(), "microseconds": int64(now.Nanosecond() / 1000)},
	}
	if data != nil {
		message["data"] = data
	}
	m.mu.Lock()
	var to []*monitorClient
	for c := range m.clients {
		if c.negotiated {
			to = append(to, c)
		}
	}
	m.mu.Unlock()
	for _, c := range to {
		c.send(message)
	}
}

// send writes one message; a client that does not read is cut off after a second.
func (c *monitorClient) send(message any) {
	b, err := json.Marshal(message)
	if err != nil {
		return
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	_ = c.conn.SetWriteDeadline(time.Now().Add(time.Second))
	if _, err := c.conn.Write(append(b, '\r', '\n')); err != nil {
		c.conn.Close()
	}
}
