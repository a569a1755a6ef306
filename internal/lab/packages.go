package lab

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

// packages says which Debian package brings which program.
var packages = map[string]string{
	"qemu-system-x86_64": "qemu-system-x86",
	"busybox":            "busybox-static",
	"iperf3":             "iperf3",
	"ping":               "iputils-ping",
	"ip":                 "iproute2",
	"dpkg-deb":           "dpkg",
	"apt-get":            "apt",
	"libvirtd":           "libvirt-daemon libvirt-daemon-driver-qemu",
	"virsh":              "libvirt-clients",
	"xz":                 "xz-utils",
}

// NeedPackages installs from Debian what brings the programs that are missing, and says so. The error names the packages
// and the command to install them by hand.
func NeedPackages(ctx context.Context, progress Progress, programs ...string) error {
	var missing []string
	for _, program := range programs {
		if _, err := exec.LookPath(program); err == nil {
			continue
		}
		if packages[program] == "" {
			return fmt.Errorf("the lab needs the program %s: install it and try again", program)
		}
		missing = append(missing, packages[program])
	}
	if len(missing) == 0 {
		return nil
	}
	names := strings.Join(missing, " ")
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("the lab needs what Debian calls %s: install it with your package manager", names)
	}
	progress("Installing from Debian: %s", names)
	args := append([]string{"install", "-y", "-qq", "--no-install-recommends"}, missing...)
	if aptGet(ctx, "", args...) == nil {
		return nil
	}
	// The lists may be absent, as in a container image, or old.
	err := aptGet(ctx, "", "update", "-qq")
	if err == nil {
		err = aptGet(ctx, "", args...)
	}
	if err != nil {
		return fmt.Errorf("install %s: %w\nThe lab needs these packages. With the network up, run: apt-get update && apt-get install %s", names, err, names)
	}
	return nil
}

// aptGet runs apt-get in a directory without asking questions; the error has the end of what it said.
func aptGet(ctx context.Context, dir string, args ...string) error {
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-o", "Acquire::Retries=1"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(cmd.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return fmt.Errorf("apt-get %s: %w", args[0], errors.Join(err, errors.New(strings.Join(lines[max(0, len(lines)-3):], "\n"))))
}
