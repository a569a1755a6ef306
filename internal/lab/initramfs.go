package lab

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// What runs inside a virtual machine.
var (
	//go:embed guestfs/init
	guestInit []byte
	//go:embed guestfs/shell
	guestShell []byte
)

// initramfs returns the path of the file system guests of this kernel boot into. Its name tells its content, so that both
// ends of a migration boot from the same bytes.
func (d images) initramfs(k kernel) (string, error) {
	archive, err := packInitramfs(k)
	if err != nil {
		return "", fmt.Errorf("build the virtual machines' file system: %w", err)
	}
	sum := sha256.Sum256(archive)
	path := d.file(fmt.Sprintf("initramfs-%x.gz", sum[:8]))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	tmp := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.WriteFile(tmp, archive, 0o644); err != nil {
		return "", fmt.Errorf("write the virtual machines' file system: %w", err)
	}
	return path, os.Rename(tmp, path)
}

func packInitramfs(k kernel) ([]byte, error) {
	busybox, err := staticBusybox()
	if err != nil {
		return nil, err
	}
	var c cpio
	for _, dir := range []string{"bin", "dev", "etc", "modules", "proc", "root", "run", "sys", "tmp"} {
		c.add(dir, 0o040755, nil)
	}
	c.add("bin/busybox", 0o100755, busybox)
	c.add("init", 0o100755, guestInit)
	c.add("shell", 0o100644, guestShell)
	c.add("etc/hosts", 0o100644, []byte("127.0.0.1 localhost\n::1 localhost\n"))
	var order strings.Builder
	for _, m := range k.Modules {
		content, err := os.ReadFile(m)
		if err != nil {
			return nil, err
		}
		c.add("modules/"+filepath.Base(m), 0o100644, content)
		fmt.Fprintln(&order, filepath.Base(m))
	}
	c.add("modules/order", 0o100644, []byte(order.String()))
	c.end()
	var packed bytes.Buffer
	z, err := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	if _, err := z.Write(c.Bytes()); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return packed.Bytes(), nil
}

// staticBusybox reads Debian's busybox, and refuses the variant that needs a C library.
func staticBusybox() ([]byte, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if bytes.Contains(b[:min(len(b), 4096)], []byte("/ld-linux")) {
		return nil, fmt.Errorf("%s: %w", path, errDynamicBusybox)
	}
	return b, nil
}

var errDynamicBusybox = errors.New("it needs a C library, which the virtual machines do not have; install the static one: apt-get install busybox-static")

// cpio is an archive in the "newc" form the kernel unpacks (Documentation/driver-api/early-userspace/buffer-format.rst).
type cpio struct {
	bytes.Buffer
	inode int
}

// add appends a file or directory; all belong to root and have no times, so that equal content is equal bytes.
func (c *cpio) add(name string, mode uint32, content []byte) {
	c.inode++
	fmt.Fprintf(c, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		c.inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0, name)
	c.pad()
	c.Write(content)
	c.pad()
}

func (c *cpio) end() { c.add("TRAILER!!!", 0, nil) }

// pad fills up to a multiple of four bytes.
func (c *cpio) pad() {
	for c.Len()%4 != 0 {
		c.WriteByte(0)
	}
}
