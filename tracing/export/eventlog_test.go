package export

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weftnet/weft/fabric"
)

func openLog(tb testing.TB, dir string, o EventLogOptions) *EventLog {
	tb.Helper()
	l, err := OpenEventLog(dir, o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := l.Close(); err != nil {
			tb.Error(err)
		}
	})
	return l
}

func write(tb testing.TB, l *EventLog, n int) {
	tb.Helper()
	for range n {
		if _, err := l.Append(event(l.Last() + 1)); err != nil {
			tb.Fatal(err)
		}
	}
}

func event(n uint64) fabric.Event {
	return fabric.Event{Time: time.Unix(int64(n), 0).UTC(), Host: "h1", Type: "port.active", Message: fmt.Sprintf("Event %d.", n)}
}

// read checks that the events after seq come in order without gaps and say what was written, and returns their number.
func read(tb testing.TB, l *EventLog, seq uint64) (n int) {
	tb.Helper()
	err := l.Since(seq, func(r Record) error {
		if n == 0 && r.Seq > seq {
			seq = r.Seq - 1 // older ones are no longer kept
		}
		if n++; r.Seq != seq+uint64(n) || r.Event != event(r.Seq) {
			return fmt.Errorf("after %d events came %+v", n-1, r)
		}
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

func TestEventsSurviveReopening(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, EventLogOptions{SegmentBytes: 1000})
	write(t, l, 25)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(event(26)); !errors.Is(err, ErrLogClosed) {
		t.Errorf("append to a closed log: %v", err)
	}
	l = openLog(t, dir, EventLogOptions{SegmentBytes: 1000})
	write(t, l, 5)
	if n := read(t, l, 0); n != 30 || l.Last() != 30 {
		t.Fatalf("%d events, the last is %d", n, l.Last())
	}
	if n := read(t, l, 28); n != 2 {
		t.Fatalf("%d events after 28", n)
	}
	if n := read(t, l, 99); n != 0 {
		t.Fatalf("%d events after 99", n)
	}
}

func TestTheLogIsBounded(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, EventLogOptions{SegmentBytes: 2000, TotalBytes: 6000})
	write(t, l, 500)
	if n := read(t, l, 0); n == 0 || n > 60 {
		t.Errorf("%d of 500 events are kept", n)
	}
	var total int64
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", e.Name(), info.Mode())
		}
	}
	if total > 6000 {
		t.Errorf("%d bytes are kept", total)
	}
}

func TestATornTailIsDroppedAndTheRestKept(t *testing.T) {
	for claim, spoil := range map[string]func(b []byte) []byte{
		"half a header":         func(b []byte) []byte { return append(b, 1, 2, 3) },
		"half a payload":        func(b []byte) []byte { return append(b, 100, 0, 0, 0, 1, 2, 3, 4, '{') },
		"a length of gigabytes": func(b []byte) []byte { return append(b, 255, 255, 255, 255, 1, 2, 3, 4) },
		"zeros":                 func(b []byte) []byte { return append(b, make([]byte, 4096)...) },
		"a wrong checksum": func(b []byte) []byte {
			frame, err := encode(Record{Seq: 4, Event: event(4)})
			if err != nil {
				t.Fatal(err)
			}
			frame[len(frame)-3] ^= 1
			return append(b, frame...)
		},
	} {
		t.Run(claim, func(t *testing.T) {
			dir := t.TempDir()
			l := openLog(t, dir, EventLogOptions{})
			write(t, l, 3)
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			path := segmentName(dir, 1)
			good, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, spoil(bytes.Clone(good)), 0o600); err != nil {
				t.Fatal(err)
			}
			l = openLog(t, dir, EventLogOptions{})
			if n := read(t, l, 0); n != 3 {
				t.Fatalf("%d events", n)
			}
			if got, _ := os.ReadFile(path); !bytes.Equal(got, good) {
				t.Error("the torn tail is still there")
			}
			write(t, l, 2)
			if n := read(t, l, 0); n != 5 {
				t.Fatalf("%d events after two more", n)
			}
		})
	}
}

func TestASpoiledSegmentLosesOnlyItsRest(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, EventLogOptions{SegmentBytes: 1000})
	write(t, l, 30)
	path := segmentName(dir, l.firsts[1])
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-5] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := l.Since(0, func(Record) error { n++; return nil }); err != nil {
		t.Fatal(err)
	}
	if n != 29 {
		t.Fatalf("%d of 30 events are read, 29 can be", n)
	}
}

func TestOnlyOneProcessHasTheLog(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, EventLogOptions{})
	if second, err := OpenEventLog(dir, EventLogOptions{}); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Fatalf("a second open gave %v, %v", second, err)
	}
	write(t, l, 1)
	if n := read(t, l, 0); n != 1 {
		t.Fatalf("%d events", n)
	}
}

func TestAnEventTooLargeIsRefusedAndChangesNothing(t *testing.T) {
	l := openLog(t, t.TempDir(), EventLogOptions{})
	e := event(1)
	e.Message = strings.Repeat("x", maxPayload)
	if _, err := l.Append(e); !errors.Is(err, fabric.ErrInvalid) {
		t.Fatalf("error %v", err)
	}
	write(t, l, 1)
	if n := read(t, l, 0); n != 1 {
		t.Fatalf("%d events", n)
	}
}

func TestFollowersSeeEveryEventOnceWhileSegmentsChange(t *testing.T) {
	l := openLog(t, t.TempDir(), EventLogOptions{SegmentBytes: 2000, TotalBytes: 1 << 20})
	const events = 300
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var followers sync.WaitGroup
	for range 3 {
		followers.Go(func() {
			next := uint64(1)
			err := l.Follow(ctx, 0, func(r Record) error {
				if r.Seq != next || r.Event != event(next) {
					return fmt.Errorf("wanted %d, got %+v", next, r)
				}
				if next++; next > events {
					return errStop
				}
				return nil
			})
			if !errors.Is(err, errStop) {
				t.Error(err)
			}
		})
	}
	write(t, l, events)
	followers.Wait()
}

var errStop = errors.New("seen enough")

func TestFollowEndsWithItsContextAndWithTheLog(t *testing.T) {
	l := openLog(t, t.TempDir(), EventLogOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() { ended <- l.Follow(ctx, 0, func(Record) error { return nil }) }()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("after cancel: %v", err)
	}
	go func() { ended <- l.Follow(t.Context(), 0, func(Record) error { return nil }) }()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, ErrLogClosed) {
		t.Errorf("after close: %v", err)
	}
}

// TestAKilledWriterLosesNothingItWasToldIsWritten kills a process in the middle of writing, again and again.
func TestAKilledWriterLosesNothingItWasToldIsWritten(t *testing.T) {
	dir := t.TempDir()
	acknowledged := uint64(0)
	for round := range 5 {
		writer := exec.Command(os.Args[0], "-test.run", "^TestWriterProcess$")
		writer.Env = append(os.Environ(), "WEFT_TEST_EVENT_LOG="+dir)
		out, err := writer.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := writer.Start(); err != nil {
			t.Fatal(err)
		}
		var line []byte
		buf := make([]byte, 1)
		for lines := 0; lines < 200*(round+1); {
			if _, err := out.Read(buf); err != nil {
				t.Fatal(err)
			}
			if buf[0] != '\n' {
				line = append(line, buf[0])
				continue
			}
			if acknowledged, err = strconv.ParseUint(string(line), 10, 64); err != nil {
				t.Fatalf("the writer said %q", line)
			}
			line, lines = nil, lines+1
		}
		if err := writer.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = writer.Wait()
		l := openLog(t, dir, EventLogOptions{SegmentBytes: 10_000})
		if l.Last() < acknowledged {
			t.Fatalf("round %d: %d events are there, %d were acknowledged", round, l.Last(), acknowledged)
		}
		if n := read(t, l, 0); uint64(n) != l.Last() {
			t.Fatalf("round %d: %d of %d events", round, n, l.Last())
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWriterProcess is the process that is killed; on its own it checks one event.
func TestWriterProcess(t *testing.T) {
	dir := os.Getenv("WEFT_TEST_EVENT_LOG")
	if dir == "" {
		l := openLog(t, filepath.Join(t.TempDir(), "new", "directory"), EventLogOptions{})
		write(t, l, 1)
		return
	}
	l := openLog(t, dir, EventLogOptions{SegmentBytes: 10_000})
	for {
		write(t, l, 1)
		fmt.Println(l.Last())
	}
}

// FuzzDecode checks that any bytes are read as events, an end, or a torn frame, and that what was read is what was there.
func FuzzDecode(f *testing.F) {
	frame, err := encode(Record{Seq: 1, Event: event(1)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(frame)
	f.Add(append(bytes.Clone(frame), frame[:20]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		for {
			left := r.Len()
			_, size, err := decode(r)
			if errors.Is(err, io.EOF) || errors.Is(err, errTorn) {
				return
			}
			if err != nil || size != int64(left-r.Len()) {
				t.Fatalf("%d bytes for %d: %v", left-r.Len(), size, err)
			}
		}
	})
}
