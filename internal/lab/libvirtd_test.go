package lab

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/fabric"
)

// daemon is a real libvirtd in the namespace of a lab's host, which sees directories of its own where libvirt keeps its things.
type daemon struct {
	lab     *Lab
	host    fabric.HostID
	uuid    string
	process Process
}

// script gives libvirtd its own directories and users, and runs it. Its directory is the first argument, the second one is kept
// from test to test: what QEMU can do costs 10 s to find out.
const script = `set -e
mount --make-rprivate /
for d in etc/libvirt var/lib/libvirt var/log/libvirt var/cache/libvirt run/libvirt; do mkdir -p /$d; done
mount --bind $1/etc /etc/libvirt
mount --bind $1/lib /var/lib/libvirt
mount --bind $1/log /var/log/libvirt
mount --bind $1/run /run/libvirt
mount --bind $2 /var/cache/libvirt
mount --bind $1/passwd /etc/passwd
mount --bind $1/group /etc/group
exec libvirtd --pid-file $1/run/libvirtd.pid`

// libvirtd starts libvirt on a host; it ends with the lab.
func libvirtd(t *testing.T, l *Lab, host fabric.HostID) *daemon {
	t.Helper()
	if err := NeedPackages(t.Context(), t.Logf, "libvirtd", "virsh", "qemu-system-x86_64", "busybox"); err != nil {
		t.Fatal(err)
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	d := &daemon{lab: l, host: host}
	d.uuid = fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
	files := map[string]string{
		"etc/libvirtd.conf": "unix_sock_dir = \"" + d.dir("run") + "\"\nauth_unix_rw = \"none\"\nhost_uuid = \"" + d.uuid + "\"\nlisten_tls = 0\n" +
			"log_outputs = \"2:file:" + d.dir("libvirtd.log") + "\"\n",
		// Without systemd, cgroups of one's own, or a user for guests.
		"etc/qemu.conf": "user = \"root\"\ngroup = \"root\"\nswtpm_user = \"root\"\nswtpm_group = \"root\"\nsecurity_driver = \"none\"\ncgroup_controllers = []\n" +
			"namespaces = []\nremember_owner = 0\ndynamic_ownership = 0\nstdio_handler = \"file\"\n",
		"passwd": read(t, "/etc/passwd") + "libvirt-qemu:x:64055:64055::/:/bin/false\n",
		"group":  read(t, "/etc/group") + "kvm:x:64056:\nlibvirt-qemu:x:64055:\n",
	}
	for _, dir := range []string{"etc", "lib", "log", "run"} {
		if err := os.MkdirAll(d.dir(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range files {
		if err := os.WriteFile(d.dir(name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	d.start(t)
	return d
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// dir is a file of the daemon's directory, as every namespace sees it.
func (d *daemon) dir(name string) string { return d.lab.file(string(d.host), "libvirt", name) }

func (d *daemon) uri() string { return "qemu+unix:///system?socket=" + d.dir("run/libvirt-sock") }

// start runs libvirtd and waits until it answers.
func (d *daemon) start(t *testing.T) {
	t.Helper()
	cache := theImages.file("libvirt")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "--mount", "sh", "-c", script, "libvirtd", d.dir(""), cache)
	p, err := detach(d.lab.HostNamespace(d.host), d.dir("start.log"), cmd)
	if err != nil {
		t.Fatal(err)
	}
	d.process = p
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err = poll(ctx, 50*time.Millisecond, func() (bool, error) {
		if !p.Alive() {
			return false, fmt.Errorf("libvirtd has ended: %s\n%s", read(t, d.dir("start.log")), tail(d.dir("libvirtd.log")))
		}
		return exec.Command("virsh", "-c", d.uri(), "version").Run() == nil, nil
	})
	if err != nil {
		t.Fatalf("start libvirtd on %s: %v", d.host, err)
	}
}

// restart ends libvirtd as a crash does, and starts it again; its guests run on.
func (d *daemon) restart(t *testing.T) {
	t.Helper()
	if err := d.process.Kill(); err != nil {
		t.Fatal(err)
	}
	d.start(t)
}

// virsh runs a command that must succeed.
func (d *daemon) virsh(t *testing.T, args ...string) string {
	t.Helper()
	out, err := d.try(t, args...)
	if err != nil {
		t.Fatalf("virsh %s on %s: %v\n%s", strings.Join(args, " "), d.host, err, tail(d.dir("libvirtd.log")))
	}
	return out
}

// try runs a command that may fail; the error has what it said.
func (d *daemon) try(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "virsh", append([]string{"-q", "-c", d.uri()}, args...)...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err := d.lab.HostNamespace(d.host).Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(said.String()))
	}
	return out.String(), err
}

// weft runs a command of the command line against the host's agent.
func (d *daemon) weft(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), d.lab.Binary, append([]string{"--socket", d.lab.Socket(d.host)}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("weft %s on %s: %v\n%s", strings.Join(args, " "), d.host, err, out)
	}
	return string(out)
}

// emulator is QEMU with 8 KiB more memory than libvirt gives it: see memory.
func emulator(t *testing.T) string {
	t.Helper()
	path := theImages.file("libvirt-qemu")
	const wrapper = `#!/bin/bash
args=("$@")
for i in "${!args[@]}"; do
	args[i]=${args[i]/\"size\":134217728/\"size\":134225920}
	[ "${args[i]}" = -m ] && args[i+1]=131080k
done
exec qemu-system-x86_64 "${args[@]}"
`
	if text, err := os.ReadFile(path); err == nil && string(text) == wrapper {
		return path // libvirt asks a program anew what it can do when its time has changed
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(wrapper), 0o755)); err != nil {
		t.Fatal(err)
	}
	return path
}

// domain is the description of a guest, which says nothing of weft but the names of a network and a portgroup.
func domain(t *testing.T, name string, nics ...string) string {
	t.Helper()
	m, err := theImages.machine(t.Context(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	kind := "qemu"
	if m.accel == "kvm" {
		kind = "kvm"
	}
	text := fmt.Sprintf(`<domain type='%s'><name>%s</name><memory unit='MiB'>128</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type><kernel>%s</kernel><initrd>%s</initrd>
<cmdline>console=ttyS0 quiet panic=-1 weft.name=%[2]s weft.mtu=1450</cmdline></os><features><acpi/></features>
<devices><emulator>%[6]s</emulator><memballoon model='none'/>
<serial type='file'><source path='/var/lib/libvirt/%[2]s.log'/><target port='0'/></serial>
<serial type='unix'><source mode='bind' path='/var/lib/libvirt/%[2]s/console.sock'/><target port='1'/></serial>
%[5]s</devices></domain>`, kind, name, m.kernel.Image, m.initramfs, strings.Join(nics, "\n"), emulator(t))
	path := filepath.Join(t.TempDir(), name+".xml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// onNetwork is a NIC that names a switch, and as its portgroup a profile.
func onNetwork(mac, portgroup string) string {
	return fmt.Sprintf("<interface type='network'><mac address='%s'/><source network='blue' portgroup='%s'/><model type='virtio'/></interface>", mac, portgroup)
}

// prepare makes the directory of a guest's console.
func (d *daemon) prepare(t *testing.T, name string) {
	t.Helper()
	if err := os.MkdirAll(d.dir("lib/"+name), 0o755); err != nil {
		t.Fatal(err)
	}
}

// boot starts a domain and waits until its guest is up.
func (d *daemon) boot(t *testing.T, name, path string) {
	t.Helper()
	d.virsh(t, "define", path)
	d.prepare(t, name)
	d.virsh(t, "start", name)
	eventually(t, "guest "+name+" has booted", func() bool {
		text, _ := os.ReadFile(d.dir("lib/" + name + ".log"))
		return strings.Contains(string(text), readyMark)
	})
	if t.Failed() {
		t.Fatalf("%s\n%s", tail(d.dir("lib/"+name+".log")), read(t, d.dir("log/qemu/"+name+".log")))
	}
}

// inside runs a command in a guest. What is written before the guest's shell has opened its console is lost, so it is said again;
// the command must be one that may run twice.
func (d *daemon) inside(t *testing.T, name, command string) string {
	t.Helper()
	var out bytes.Buffer
	var code int
	var err error
	for range 6 {
		out.Reset()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		code, err = runOnConsole(ctx, d.dir("lib/"+name), command, &out)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			break
		}
	}
	if err != nil || code != 0 {
		t.Fatalf("%s on %s: %s: status %d, %v\n%s", name, d.host, command, code, err, out.String())
	}
	return out.String()
}
