package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing/packet"
)

// recorder writes the copies of one mirror into a file until it is closed, or full.
type recorder struct {
	name, path string
	limit      int64
	listener   *nic.Listener
	file       *os.File
	cancel     context.CancelFunc
	done       chan struct{}
	full       func()

	mu      sync.Mutex
	written int64
	lost    uint64
	ended   error // errFull, or what went wrong
	endedAt time.Time
}

// errFull ends a recorder whose file has its largest size.
var errFull = errors.New("the file is full")

// flushEvery is how long a copy may wait for being in the file.
const flushEvery = 500 * time.Millisecond

// recordPath is the file of a mirror.
func (a *Agent) recordPath(mirror string) string {
	return filepath.Join(a.config.path("mirrors"), mirror+".pcapng")
}

// startRecorder begins to write what is seen on a device. A file that is there is continued where asked for, as after the agent was
// started again, else begun anew.
func (a *Agent) startRecorder(ctx context.Context, m *fabric.Mirror, device string, again bool) (*recorder, error) {
	path := a.recordPath(m.Metadata.Name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	how := os.O_CREATE | os.O_WRONLY | os.O_APPEND
	if !again {
		how |= os.O_TRUNC
	}
	file, err := os.OpenFile(path, how, 0o600)
	if err != nil {
		return nil, err
	}
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	listener, err := nic.Listen(device)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	name := m.Metadata.Name
	r := &recorder{name: name, path: path, limit: int64(m.Spec.Sink.File.Max), listener: listener, file: file, cancel: cancel, done: make(chan struct{}), written: size}
	r.full = func() {
		a.emit(a.event("mirror.full", "mirror/"+name, fmt.Sprintf("The file %s of mirror %s on host %s has its largest size of %s bytes; what follows is not written.", path, name, a.config.Host, m.Spec.Sink.File.Max)))
	}
	go r.run(ctx)
	return r, nil
}

// Write counts what goes into the file.
func (r *recorder) Write(b []byte) (int, error) {
	n, err := r.file.Write(b)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.written += int64(n)
	return n, err
}

// run writes until the context ends, or the file is full.
func (r *recorder) run(ctx context.Context) {
	defer close(r.done)
	err := r.record(ctx)
	r.mu.Lock()
	r.ended, r.endedAt = err, time.Now()
	r.mu.Unlock()
	if errors.Is(err, errFull) {
		r.full()
	}
}

func (r *recorder) record(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, r.listener.Close(), r.file.Close()) }()
	c, err := packet.NewCapture(r, r.name, "weft mirror "+r.name)
	if err != nil {
		return err
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("write %s: %w", r.path, err)
	}
	flushed, total := time.Now(), r.size()
	for ctx.Err() == nil {
		frame, at, err := r.listener.Next(time.Now().Add(flushEvery / 2))
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
		case err != nil:
			return errors.Join(fmt.Errorf("hear the copies of mirror %s: %w", r.name, err), c.Flush())
		case total+block(frame)+lastBlock > r.limit:
			return errors.Join(errFull, r.account(c))
		default:
			if err := c.Write(at, frame); err != nil {
				return fmt.Errorf("write %s: %w", r.path, err)
			}
			total += block(frame)
		}
		if time.Since(flushed) < flushEvery {
			continue
		}
		if err := c.Flush(); err != nil {
			return fmt.Errorf("write %s: %w", r.path, err)
		}
		r.drops()
		flushed = time.Now()
	}
	return r.account(c)
}

// lastBlock is what the last block of a section takes at most, in bytes.
const lastBlock = 128

// block is how many bytes a frame takes in the file (pcapng, section 4.3): its own, padded, and those of its block without options.
func block(frame []byte) int64 { return 32 + (int64(len(frame))+3)&^3 }

// account ends the section with how many frames were lost.
func (r *recorder) account(c *packet.Capture) error {
	return errors.Join(c.Dropped(time.Now(), r.drops()), c.Flush())
}

// drops notes how many frames found no room before they were read.
func (r *recorder) drops() uint64 {
	lost, err := r.listener.Dropped()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		r.lost = lost
	}
	return r.lost
}

func (r *recorder) size() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.written
}

// state is how large the file is, how many frames were lost, and why it has ended, if it has.
func (r *recorder) state() (written int64, lost uint64, ended error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.written, r.lost, r.ended
}

// failure is what went wrong; nil while it runs, and where the file is full.
func (r *recorder) failure() error {
	if _, _, ended := r.state(); !errors.Is(ended, errFull) {
		return ended
	}
	return nil
}

// at is when it ended.
func (r *recorder) at() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.endedAt
}

// Close ends it, when everything that it has heard is in the file.
func (r *recorder) Close() {
	r.cancel()
	<-r.done
}
