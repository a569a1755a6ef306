package migration

import (
	"os"
	"path/filepath"
	"strconv"
)

// Holder is the process that has a tap open; 0 when none has, or none that may be looked at. It looks through all processes of this
// process's network namespace, since others may have a tap of the same name. That takes milliseconds: ask before the moment that matters.
func Holder(device string) int {
	names, err := filepath.Glob("/proc/[0-9]*/fd/*")
	own, unread := os.Readlink("/proc/self/ns/net")
	if err != nil || unread != nil {
		return 0
	}
	for _, name := range names {
		if to, err := os.Readlink(name); err != nil || to != "/dev/net/tun" {
			continue
		}
		process := filepath.Dir(filepath.Dir(name))
		if ns, err := os.Readlink(filepath.Join(process, "ns", "net")); err != nil || ns != own {
			continue
		}
		info, err := os.ReadFile(filepath.Join(process, "fdinfo", filepath.Base(name)))
		if err != nil || !carries(string(info), device) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(process)); err == nil {
			return pid
		}
	}
	return 0
}
