package lab

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// kvmLimit is how long a boot with KVM may take; a working KVM needs less than two seconds.
const kvmLimit = 5 * time.Second

// accelerator is kvm where a guest really boots with it, else tcg, software emulation: a /dev/kvm that opens is no proof.
// The answer is kept until the computer boots again.
func (d images) accelerator(ctx context.Context, m machine, progress Progress) (string, error) {
	const emulated = "tcg,tb-size=64"
	if unix.Access("/dev/kvm", unix.R_OK|unix.W_OK) != nil {
		return emulated, nil
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return emulated, nil
	}
	answer := d.file("accel-" + strings.TrimSpace(string(boot)))
	if b, err := os.ReadFile(answer); err == nil {
		return string(b), nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	progress("Trying whether virtual machines boot with KVM (at most %s)", kvmLimit)
	accel := "kvm"
	if !m.boots(ctx, accel) {
		accel = emulated
	}
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	progress("Virtual machines use %s", strings.ToUpper(strings.SplitN(accel, ",", 2)[0]))
	if err := os.WriteFile(answer+".tmp", []byte(accel), 0o644); err != nil {
		return "", err
	}
	return accel, os.Rename(answer+".tmp", answer)
}

// boots reports whether a machine with this accelerator comes up.
func (m machine) boots(ctx context.Context, accel string) bool {
	ctx, cancel := context.WithTimeout(ctx, kvmLimit)
	defer cancel()
	m.accel = accel
	args := append(m.args("probe", "weft.probe=1"), "-serial", "stdio")
	out, _ := exec.CommandContext(ctx, "qemu-system-x86_64", args...).Output()
	return strings.Contains(string(out), readyMark)
}
