package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/datapath/nic"
)

func TestARecorderWritesWhatItHearsUntilTheFileIsFull(t *testing.T) {
	ns, err := nic.CreateNamespace(fmt.Sprintf("rec%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := ns.Delete(); err != nil {
			t.Error(err)
		}
	}()
	const limit, size = 10_000, 1000
	path := filepath.Join(t.TempDir(), "m.pcapng")
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	full := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	r := &recorder{name: "m", path: path, limit: limit, file: file, cancel: cancel, done: make(chan struct{}), full: func() { close(full) }}
	fd := -1
	err = ns.Do(func() (err error) {
		if err := nic.CreateVeth(nic.Veth{Name: "wm-m", Peer: "other", MTU: 1500}); err != nil {
			return err
		}
		if err := errors.Join(nic.SetUp("wm-m"), nic.SetUp("other")); err != nil {
			return err
		}
		if r.listener, err = nic.Listen("wm-m"); err != nil {
			return err
		}
		other, err := nic.Find("other")
		if err != nil {
			return err
		}
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: other.Index})
	})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	go r.run(ctx)
	frame := binary.BigEndian.AppendUint16(append(make([]byte, 0, size), 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2), 0x88b5)
	frame = frame[:size]
	deadline := time.After(20 * time.Second)
	for waiting := true; waiting; {
		if _, err := unix.Write(fd, frame); err != nil {
			t.Fatal(err)
		}
		select {
		case <-full:
			waiting = false
		case <-deadline:
			t.Fatal("the file is not full after 20 s")
		case <-time.After(time.Millisecond):
		}
	}
	r.Close()
	info, err := os.Stat(path)
	written, _, ended := r.state()
	if err != nil || info.Size() > limit || info.Size() < limit-size-500 || written != info.Size() || !errors.Is(ended, errFull) || r.failure() != nil {
		t.Errorf("the file has %d bytes of %d, the recorder counts %d: %v, %v", info.Size(), limit, written, ended, err)
	}
}
