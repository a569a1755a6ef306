package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/migration/qmp"
)

// readyMark is what a guest writes on its first serial port when its NIC is configured.
const readyMark = "WEFT-GUEST-READY"

// guestBootLimit is how long a virtual machine may take to boot; three seconds are normal without KVM.
const guestBootLimit = 60 * time.Second

// machine is what every virtual machine of this computer is made of; both ends of a migration use the same.
type machine struct {
	kernel    kernel
	initramfs string
	accel     string
}

// machine finds or fetches the parts of a virtual machine.
func (d images) machine(ctx context.Context, progress Progress) (machine, error) {
	var m machine
	err := NeedPackages(ctx, progress, "qemu-system-x86_64", "busybox")
	if err != nil {
		return m, err
	}
	if m.kernel, err = d.findKernel(ctx, progress); err != nil {
		return m, err
	}
	if m.initramfs, err = d.initramfs(m.kernel); err != nil {
		return m, err
	}
	m.accel, err = d.accelerator(ctx, m, progress)
	return m, err
}

// memory is what a machine has: 128 MiB and a little, on purpose not a multiple of 256 KiB. For one that is, QEMU before 9.0
// collects dirty pages word by word and forgets to tell its software emulation (fixed there by "physmem: Fix migration
// dirty bitmap coherency with TCG memory access"): what the guest then writes is lost in a migration, and some time later
// its kernel panics, about one move in ten on a busy computer.
const memory = "131080k"

// args are the options of QEMU that make the machine itself.
func (m machine) args(name, append string) []string {
	return []string{
		"-name", "guest=" + name + ",process=weft-vm-" + name,
		"-machine", "pc", "-accel", m.accel, "-m", memory, "-smp", "1",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", m.kernel.Image, "-initrd", m.initramfs,
		"-append", "console=ttyS0 quiet panic=-1 " + append,
	}
}

// startQEMU boots a virtual machine and waits until its NIC is configured.
func (l *Lab) startQEMU(ctx context.Context, g *Guest, host fabric.HostID) (Instance, error) {
	i, tap, err := l.qemuInstance(g, host)
	if err != nil {
		return i, err
	}
	defer tap.Close()
	if err := l.outlet().attach(ctx, host, g.Port(), i.attachment()); err != nil {
		return i, err
	}
	if err := l.raise(host, i.Device); err != nil {
		return i, err
	}
	if i.Process, err = l.runQEMU(ctx, g, i, tap); err != nil {
		return i, err
	}
	return i, i.awaitBoot(ctx)
}

// awaitQEMU starts an identical machine on the host that waits for the guest's memory, and returns where it waits.
func (l *Lab) awaitQEMU(ctx context.Context, g *Guest, host fabric.HostID) (Instance, string, error) {
	i, tap, err := l.qemuInstance(g, host)
	if err != nil {
		return i, "", err
	}
	defer tap.Close()
	uri, err := l.freeURI(host)
	if err != nil {
		return i, "", err
	}
	if i.Process, err = l.runQEMU(ctx, g, i, tap, "-incoming", uri); err != nil || !g.PostCopy {
		return i, uri, err
	}
	m, err := qmp.Dial(ctx, filepath.Join(i.Dir, labMonitor), nil)
	if err != nil {
		return i, uri, err
	}
	defer m.Close()
	return i, uri, m.SetMigrationCapabilities(ctx, map[string]bool{"postcopy-ram": true})
}

func (l *Lab) qemuInstance(g *Guest, host fabric.HostID) (Instance, *os.File, error) {
	i := Instance{Host: host, Device: nic.TapName(g.Port())}
	dir, err := l.instanceDir(g.Name, host)
	if err != nil {
		return i, nil, err
	}
	i.Dir = dir
	tap, err := l.openTap(g, i, 0) // QEMU sets the offloads that its guest accepts
	return i, tap, err
}

// runQEMU starts QEMU in the host's namespace, with the tap as descriptor 3. It returns when the monitors answer, because
// QEMU detaches only then.
func (l *Lab) runQEMU(ctx context.Context, g *Guest, i Instance, tap *os.File, more ...string) (Process, error) {
	m, err := theImages.machine(ctx, func(string, ...any) {})
	if err != nil {
		return Process{}, err
	}
	in := func(name string) string { return filepath.Join(i.Dir, name) }
	args := append(m.args(g.Name, g.commandLine()),
		"-chardev", "file,id=log,path="+in("serial.log"), "-serial", "chardev:log",
		"-chardev", "socket,id=exec,server=on,wait=off,path="+in(consoleSocket), "-serial", "chardev:exec",
		"-qmp", "unix:"+in(agentMonitor)+",server=on,wait=off",
		"-qmp", "unix:"+in(labMonitor)+",server=on,wait=off",
		"-netdev", "tap,id=nic0,fd=3",
		// UFO frames cannot be encapsulated (datapath.md 2.1); no boot ROM saves a second.
		// The device tells the guest its MTU (VIRTIO_NET_F_MTU, virtio 1.1 section 5.1.3).
		"-device", fmt.Sprintf("virtio-net-pci,netdev=nic0,romfile=,host_ufo=off,guest_ufo=off,mac=%s,host_mtu=%d", g.NIC.MAC, g.NIC.MTU),
		"-pidfile", in("pid"), "-daemonize")
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", append(args, more...)...)
	cmd.ExtraFiles = []*os.File{tap}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := l.HostNamespace(i.Host).Start(cmd); err != nil {
		return Process{}, err
	}
	if err := cmd.Wait(); err != nil {
		return Process{}, fmt.Errorf("start QEMU: %w: %s", err, strings.TrimSpace(out.String()))
	}
	b, err := os.ReadFile(in("pid"))
	if err != nil {
		return Process{}, fmt.Errorf("start QEMU: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return Process{}, fmt.Errorf("start QEMU: read its process id: %w", err)
	}
	return processOf(pid), nil
}

// commandLine tells the guest's init about its NIC.
func (g *Guest) commandLine() string {
	var addresses []string
	for _, a := range g.NIC.Addresses {
		addresses = append(addresses, a.String())
	}
	return fmt.Sprintf("weft.name=%s weft.address=%s", g.Name, strings.Join(addresses, ","))
}

// freeURI finds a port on the host's underlay address where a migration can arrive.
func (l *Lab) freeURI(host fabric.HostID) (uri string, err error) {
	err = l.HostNamespace(host).Do(func() error {
		listener, err := net.Listen("tcp", net.JoinHostPort(l.VTEP(host).String(), "0"))
		if err != nil {
			return err
		}
		uri = "tcp:" + listener.Addr().String()
		return listener.Close()
	})
	return uri, err
}

// awaitBoot waits for the guest's mark on its serial port.
func (i Instance) awaitBoot(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, guestBootLimit)
	defer cancel()
	log := filepath.Join(i.Dir, "serial.log")
	err := poll(ctx, 20*time.Millisecond, func() (bool, error) {
		b, err := os.ReadFile(log)
		if err == nil && strings.Contains(string(b), readyMark) {
			return true, nil
		}
		if !i.Process.Alive() {
			return false, errors.New("the machine has ended")
		}
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("boot the virtual machine: %w\n%s", err, tail(log))
	}
	return nil
}
