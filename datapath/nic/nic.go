// Package nic makes and sets the network devices of a host: namespaces, veths, taps, façade and underlay bridges,
// addresses, MTUs and offloads. It is the only package that speaks netlink. Every call works in the network namespace of
// the calling thread; Namespace.Do runs a function in another one. All setters are idempotent: what is already as wanted
// is left alone, and removing what is not there succeeds.
package nic

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// MaxName is the longest device name, in bytes (IFNAMSIZ less the terminating zero, linux/if.h).
const MaxName = 15

// ErrNoDevice: there is no device of that name in the namespace.
var ErrNoDevice = errors.New("no such device in this namespace")

// fail says what was tried on which device, and what to do about the usual causes.
func fail(verb, device string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s: %w%s", verb, device, err, remedy(err))
}

func remedy(err error) string {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return " (run it as root, with CAP_NET_ADMIN)"
	case errors.Is(err, unix.EEXIST):
		return " (another device has this name; remove it or choose another name)"
	case errors.Is(err, unix.EBUSY):
		return " (another process or a bridge holds it; release it first)"
	case errors.Is(err, ErrNoDevice):
		return " (check `ip link` for the right name and namespace)"
	case errors.Is(err, unix.EOPNOTSUPP):
		return " (this kernel was built without that kind of device)"
	}
	return ""
}

// IsGone reports whether an error says that the device is not there, or has just gone.
func IsGone(err error) bool { return errors.Is(err, ErrNoDevice) || errors.Is(err, unix.ENODEV) }

// find returns the device; the error wraps ErrNoDevice when there is none.
func find(device string) (netlink.Link, error) {
	link, err := netlink.LinkByName(device)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) || errors.Is(err, unix.ENODEV) {
		return nil, ErrNoDevice
	}
	return link, err
}

// checkName refuses what the kernel would refuse with a bare EINVAL.
func checkName(device string) error {
	switch {
	case device == "" || device == "." || device == "..":
		return fmt.Errorf("%q is not a device name", device)
	case len(device) > MaxName:
		return fmt.Errorf("device name %s has %d characters; the kernel allows %d", device, len(device), MaxName)
	}
	for _, c := range []byte(device) {
		if c <= ' ' || c == '/' || c == ':' || c == 0x7f {
			return fmt.Errorf("device name %q has a character the kernel refuses: %q", device, c)
		}
	}
	return nil
}

// closeOnError closes what was half opened.
func closeOnError(f *os.File, err *error) {
	if *err != nil {
		f.Close()
	}
}
