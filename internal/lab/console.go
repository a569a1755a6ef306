package lab

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// consoleSocket is the second serial port of a virtual machine, on which its init runs commands.
const consoleSocket = "console.sock"

// mark begins the lines that frame the output of a command: the record separator of ASCII.
const mark = "\036"

// runOnConsole runs a shell command inside a virtual machine and copies its output, standard error included, to out. One
// command runs at a time; the next waits. The result is the command's exit status.
func runOnConsole(ctx context.Context, dir, command string, out io.Writer) (int, error) {
	unlock, err := lockConsole(ctx, dir)
	if err != nil {
		return 0, err
	}
	defer unlock()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", filepath.Join(dir, consoleSocket))
	if err != nil {
		return 0, fmt.Errorf("reach the machine's console: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() {
		_, _ = conn.Write([]byte{3}) // Control-C; the loop inside then says how the command ended
		_ = conn.SetReadDeadline(time.Now().Add(2 * time.Second))
	})
	defer stop()
	id := rand.Text()
	if _, err := fmt.Fprintf(conn, "\n%s %s\n", id, base64.StdEncoding.EncodeToString([]byte(command))); err != nil {
		return 0, fmt.Errorf("write to the machine's console: %w", err)
	}
	code, err := readConsole(conn, id, out)
	if ctx.Err() != nil {
		return code, context.Cause(ctx)
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("the machine ended, or left this host, while the command ran")
	}
	return code, err
}

// readConsole skips what is not of this command, copies its output as it comes, and returns its exit status.
func readConsole(in io.Reader, id string, out io.Writer) (int, error) {
	begin, end := mark+"BEGIN "+id+"\n", mark+"END "+id+" "
	begun, pending, chunk := false, "", make([]byte, 32<<10)
	for {
		n, err := in.Read(chunk)
		if err != nil {
			return 0, err
		}
		pending += string(chunk[:n])
		if !begun {
			_, after, found := strings.Cut(pending, begin)
			if !found {
				continue
			}
			begun, pending = true, after
		}
		text, status, ended := strings.Cut(pending, end)
		if !ended {
			// The end of what has come may be the beginning of the mark.
			if at := strings.LastIndex(text, mark); at >= 0 && len(text)-at < len(end) {
				text = text[:at]
			}
		}
		if _, err := io.WriteString(out, text); err != nil {
			return 0, err
		}
		pending = pending[len(text):]
		if code, _, complete := strings.Cut(status, "\n"); ended && complete {
			return strconv.Atoi(code)
		}
	}
}

// lockConsole waits for its turn.
func lockConsole(ctx context.Context, dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "console.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("reach the machine's console: %w", err)
	}
	err = poll(ctx, 20*time.Millisecond, func() (bool, error) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("wait for the machine's console, another command runs: %w", err)
	}
	return func() { f.Close() }, nil
}
