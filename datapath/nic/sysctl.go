package nic

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
)

// SetSysctl sets one network setting of this namespace: SetSysctl("net/ipv4/ip_forward", "1"). The path is given with
// slashes, because device names may have dots. The error wraps fs.ErrNotExist where the kernel has no such setting.
func SetSysctl(name, value string) error {
	file := path.Join("/proc/sys", name)
	old, err := os.ReadFile(file)
	if err == nil && strings.TrimSpace(string(old)) == value {
		return nil
	}
	if err == nil {
		err = os.WriteFile(file, []byte(value), 0)
	}
	if err != nil {
		return fmt.Errorf("set %s to %s: %w%s", strings.ReplaceAll(name, "/", "."), value, err, remedy(err))
	}
	return nil
}

// DisableIPv6 keeps the namespace's own IPv6 stack off the device. A kernel without IPv6 has nothing to disable.
func DisableIPv6(device string) error {
	err := SetSysctl("net/ipv6/conf/"+device+"/disable_ipv6", "1")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
