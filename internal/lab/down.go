package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/datapath/nic"
)

// Down removes everything the lab made: processes, mounts with the pins in them, namespaces with their devices, files. It
// works on a half-made lab, and a second time it has nothing to do. It goes on after an error and returns all of them.
func (l *Lab) Down(ctx context.Context) error {
	if err := l.load(); errors.Is(err, fs.ErrNotExist) {
		return l.removeEmpty()
	} else if err != nil {
		return err
	}
	var errs []error
	for _, p := range l.Processes {
		errs = append(errs, p.Kill())
	}
	// Agents first, then underlay and guests: nobody repairs what is being removed.
	for _, name := range l.Namespaces {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, fmt.Errorf("remove lab %s: %w; run weft lab down again", l.Name, context.Cause(ctx)))...)
		}
		errs = append(errs, clearNamespace(nic.Namespace{Name: name}))
	}
	for _, m := range slices.Backward(l.Mounts) {
		err := unix.Unmount(m, unix.MNT_DETACH)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", m, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove lab %s: %w", l.Name, err)
	}
	return l.removeFiles()
}

// removeEmpty removes a directory in which nothing was begun yet; anything else in it makes this fail.
func (l *Lab) removeEmpty() error {
	_ = os.Remove(l.file(".lab.json"))
	err := os.Remove(l.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove lab %s: %s has no lab.json, so it is not known what else to remove: %w", l.Name, l.Dir, err)
	}
	return nil
}

// removeFiles removes the lab's directory, and the directories above it as far as they are ours and empty.
func (l *Lab) removeFiles() error {
	if err := os.RemoveAll(l.Dir); err != nil {
		return fmt.Errorf("remove the files of lab %s: %w", l.Name, err)
	}
	for dir := filepath.Dir(l.Dir); dir == Root || dir == filepath.Dir(Root); dir = filepath.Dir(dir) {
		if os.Remove(dir) != nil {
			break
		}
	}
	return nil
}
