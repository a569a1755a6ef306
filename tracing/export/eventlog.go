package export

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/weftnet/weft/fabric"
)

// EventLogOptions say how much is kept; the zero value works.
type EventLogOptions struct {
	// SegmentBytes is how large one file gets, 8 MiB when 0; TotalBytes how much is kept in all, 64 MiB when 0. The oldest
	// segment goes first; the one that is written is always kept.
	SegmentBytes, TotalBytes int64
	// SyncEvery is how late an event may reach the disk, 1 s when 0. A killed process loses nothing, a machine without power
	// this much.
	SyncEvery time.Duration
}

// EventLog keeps a host's events in append-only files that survive the death of the process at any instruction.
type EventLog struct {
	dir  string
	o    EventLogOptions
	lock *os.File

	ending sync.Once
	stop   chan struct{}
	done   sync.WaitGroup

	mu sync.Mutex
	// file is the segment that is written; nil when the log is closed.
	file   *os.File
	firsts []uint64 // first events of all segments, oldest first
	size   int64    // of file
	next   uint64   // number of the next event
	dirty  bool
	grown  chan struct{} // closed when the log has grown or is closed
}

// ErrLogClosed: the event log was closed.
var ErrLogClosed = errors.New("event log is closed")

// OpenEventLog opens the log in dir, or begins one. What a killed process left half-written at the end is cut off. The
// error says when another process has the log open.
func OpenEventLog(dir string, o EventLogOptions) (_ *EventLog, err error) {
	if o.SegmentBytes == 0 {
		o.SegmentBytes = 8 << 20
	}
	if o.TotalBytes == 0 {
		o.TotalBytes = 64 << 20
	}
	if o.SyncEvery == 0 {
		o.SyncEvery = time.Second
	}
	if err := privateDir(dir); err != nil {
		return nil, fmt.Errorf("open the event log: %w", err)
	}
	l := &EventLog{dir: dir, o: o, stop: make(chan struct{}), grown: make(chan struct{}), next: 1}
	defer func() {
		if err != nil {
			_ = l.release()
		}
	}()
	if err := l.acquire(); err != nil {
		return nil, err
	}
	if err := l.recover(); err != nil {
		return nil, fmt.Errorf("open the event log in %s: %w", dir, err)
	}
	l.done.Go(l.syncLoop)
	return l, nil
}

// acquire keeps other processes out, for as long as this one lives.
func (l *EventLog) acquire() error {
	path := filepath.Join(l.dir, "lock")
	lock, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("open the event log: %w", err)
	}
	l.lock = lock
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("open the event log in %s: another process has it open: %w", l.dir, err)
	}
	return nil
}

// recover finds the end of the log and cuts off what is torn.
func (l *EventLog) recover() error {
	firsts, err := segments(l.dir)
	if err != nil {
		return err
	}
	l.firsts = firsts
	if len(firsts) == 0 {
		return l.begin()
	}
	l.next = firsts[len(firsts)-1]
	file, err := os.OpenFile(segmentName(l.dir, l.next), os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	l.file = file
	r := bufio.NewReader(file)
	for {
		record, size, err := decode(r)
		if errors.Is(err, io.EOF) || errors.Is(err, errTorn) {
			break
		}
		if err != nil {
			return err
		}
		l.size += size
		l.next = record.Seq + 1
	}
	if err := file.Truncate(l.size); err != nil {
		return err
	}
	_, err = file.Seek(l.size, io.SeekStart)
	return err
}

// begin starts the next segment and drops the oldest ones that no longer fit.
func (l *EventLog) begin() error {
	if l.file != nil {
		// A full segment reaches the disk before the next one begins, so that only the last can be torn.
		if err := l.file.Sync(); err != nil {
			return err
		}
	}
	file, err := os.OpenFile(segmentName(l.dir, l.next), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if l.file != nil {
		_ = l.file.Close()
	}
	l.file, l.size, l.dirty = file, 0, false
	if len(l.firsts) == 0 || l.firsts[len(l.firsts)-1] != l.next {
		l.firsts = append(l.firsts, l.next)
	}
	for keep := max(1, int(l.o.TotalBytes/l.o.SegmentBytes)); len(l.firsts) > keep; l.firsts = l.firsts[1:] {
		if err := os.Remove(segmentName(l.dir, l.firsts[0])); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Append writes an event and returns its number. When it returns, the event survives the process. An event of more than
// 64 KiB is refused with fabric.ErrInvalid; a write that failed leaves the log as it was.
func (l *EventLog) Append(e fabric.Event) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return 0, ErrLogClosed
	}
	frame, err := encode(Record{Seq: l.next, Event: e})
	if err != nil {
		return 0, err
	}
	if l.size > 0 && l.size+int64(len(frame)) > l.o.SegmentBytes {
		if err := l.begin(); err != nil {
			return 0, fmt.Errorf("begin a segment of the event log in %s: %w", l.dir, err)
		}
	}
	if _, err := l.file.WriteAt(frame, l.size); err != nil {
		// Half a frame at the end would hide what is written after it.
		return 0, fmt.Errorf("write the event log in %s: %w", l.dir, errors.Join(err, l.file.Truncate(l.size)))
	}
	l.size += int64(len(frame))
	l.next++
	l.dirty = true
	l.wake()
	return l.next - 1, nil
}

// wake tells all followers to look again.
func (l *EventLog) wake() {
	close(l.grown)
	l.grown = make(chan struct{})
}

// Since calls each with all events after the one numbered seq, oldest first; 0 is from the beginning. Events that are no
// longer kept are left out, which Record.Seq shows. It ends with the first error of each.
func (l *EventLog) Since(seq uint64, each func(Record) error) error {
	_, err := l.since(seq, each)
	return err
}

// Follow is Since that goes on with new events until ctx ends, and then returns its error; ErrLogClosed when the log is
// closed.
func (l *EventLog) Follow(ctx context.Context, seq uint64, each func(Record) error) error {
	for {
		l.mu.Lock()
		grown, closed := l.grown, l.file == nil
		l.mu.Unlock()
		var err error
		if seq, err = l.since(seq, each); err != nil {
			return err
		}
		if closed {
			return ErrLogClosed
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Last is the number of the newest event, 0 when there is none.
func (l *EventLog) Last() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.next - 1
}

// since returns the number of the last event that each has seen.
func (l *EventLog) since(seq uint64, each func(Record) error) (uint64, error) {
	l.mu.Lock()
	firsts, end, size := slices.Clone(l.firsts), l.next, l.size
	l.mu.Unlock()
	if seq+1 >= end {
		return seq, nil
	}
	for i, first := range firsts {
		last := i == len(firsts)-1
		if !last && firsts[i+1] <= seq+1 {
			continue
		}
		limit := int64(-1)
		if last {
			limit = size
		}
		var err error
		if seq, err = l.readSegment(first, limit, seq, each); err != nil {
			return seq, err
		}
	}
	return seq, nil
}

// readSegment reads one file up to limit bytes, or to its end when limit is negative. A segment that has just been
// dropped is empty; behind a frame that the disk spoiled the segment ends.
func (l *EventLog) readSegment(first uint64, limit int64, seq uint64, each func(Record) error) (uint64, error) {
	file, err := os.Open(segmentName(l.dir, first))
	if errors.Is(err, os.ErrNotExist) {
		return seq, nil
	}
	if err != nil {
		return seq, fmt.Errorf("read the event log: %w", err)
	}
	defer file.Close()
	in := io.Reader(file)
	if limit >= 0 {
		in = io.LimitReader(file, limit)
	}
	r := bufio.NewReader(in)
	for {
		record, _, err := decode(r)
		if errors.Is(err, io.EOF) || errors.Is(err, errTorn) {
			return seq, nil
		}
		if err != nil {
			return seq, fmt.Errorf("read the event log: %w", err)
		}
		if record.Seq <= seq {
			continue
		}
		if err := each(record); err != nil {
			return seq, err
		}
		seq = record.Seq
	}
}

// syncLoop brings what was written to the disk.
func (l *EventLog) syncLoop() {
	tick := time.NewTicker(l.o.SyncEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			l.mu.Lock()
			if l.dirty && l.file != nil && l.file.Sync() == nil {
				l.dirty = false
			}
			l.mu.Unlock()
		case <-l.stop:
			return
		}
	}
}

// Close brings everything to the disk and ends all followers. Closing twice does nothing more.
func (l *EventLog) Close() error {
	l.ending.Do(func() { close(l.stop) })
	l.done.Wait()
	return l.release()
}

func (l *EventLog) release() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var err error
	if l.file != nil {
		err = errors.Join(l.file.Sync(), l.file.Close())
		l.file = nil
		l.wake()
	}
	if l.lock != nil {
		err = errors.Join(err, l.lock.Close())
		l.lock = nil
	}
	return err
}
