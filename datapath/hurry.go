package datapath

import (
	"errors"
	"log/slog"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// The kernel waits for a grace period of RCU whenever a program is attached to a device or taken off it (tcx_entry_sync), and when a
// map is put into another: some 12 ms each, in which nobody else can change a device. A port takes four of them. With
// rcu_expedited the kernel asks its CPUs instead of waiting for them, as it does whenever a device itself is made or removed
// (synchronize_net), and a grace period takes less than a millisecond.
const (
	expeditedSwitch = "/sys/kernel/rcu_expedited"
	// expeditedNote is there, and not empty, while a weft has changed the switch: locked by all who need it, so that the last of them
	// turns it back, and what one left that was killed is put right by the next.
	expeditedNote = "/run/weft-rcu-expedited"
)

// hurry has the kernel's grace periods expedited until the function that it returns is called. Where the kernel does not let us, they
// last as long as they last.
func hurry(log *slog.Logger) (done func()) {
	done = func() {}
	note, err := os.OpenFile(expeditedNote, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err == nil {
		if err = begin(note); err == nil {
			return func() {
				if err := errors.Join(end(note), note.Close()); err != nil {
					log.Warn("the kernel's grace periods stay expedited", "file", expeditedSwitch, "error", err)
				}
			}
		}
		err = errors.Join(err, note.Close())
	}
	log.Debug("plugging in takes longer: the kernel's grace periods cannot be expedited", "file", expeditedSwitch, "error", err)
	return done
}

// begin turns the switch on and notes it, unless it is on already.
func begin(note *os.File) error {
	if err := unix.Flock(int(note.Fd()), unix.LOCK_SH); err != nil {
		return err
	}
	now, err := os.ReadFile(expeditedSwitch)
	if err != nil || strings.TrimSpace(string(now)) != "0" {
		return err
	}
	if _, err := note.WriteAt([]byte("0\n"), 0); err != nil {
		return err
	}
	return os.WriteFile(expeditedSwitch, []byte("1"), 0)
}

// end turns the switch off again if a weft has turned it on, and no other needs it.
func end(note *os.File) error {
	if err := unix.Flock(int(note.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil // another one does
	}
	info, err := note.Stat()
	if err != nil || info.Size() == 0 {
		return err
	}
	if err := os.WriteFile(expeditedSwitch, []byte("0"), 0); err != nil {
		return err
	}
	return note.Truncate(0)
}
