package lab

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestWithoutNetworkTheErrorSaysSo(t *testing.T) {
	t.Setenv("http_proxy", "http://127.0.0.1:1") // nobody listens there
	quiet := func(string, ...any) {}
	_, err := images(t.TempDir()).findKernel(t.Context(), quiet)
	if err == nil || !strings.Contains(err.Error(), "network up") || !strings.Contains(err.Error(), "linux-image-") {
		t.Errorf("fetching a kernel: %v", err)
	}
	// A program that is not there, of a package that cannot be had.
	t.Setenv("PATH", "/usr/sbin:/sbin")
	if err := NeedPackages(t.Context(), quiet, "a-program-nobody-has"); err == nil || !strings.Contains(err.Error(), "a-program-nobody-has") {
		t.Errorf("a program of no package: %v", err)
	}
	if err := NeedPackages(t.Context(), quiet, "busybox"); err == nil || !strings.Contains(err.Error(), "busybox-static") {
		t.Errorf("no apt-get: %v", err)
	}
}

func TestKernelArrivesCompleteOrNotAtAll(t *testing.T) {
	k, err := theImages.findKernel(t.Context(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range k.Modules {
		names = append(names, m[strings.LastIndexByte(m, '/')+1:])
	}
	before := func(first, second string) {
		a, b := slices.Index(names, first), slices.Index(names, second)
		if a < 0 || b < 0 || a > b {
			t.Errorf("%s must be loaded before %s: %v", first, second, names)
		}
	}
	before("virtio_ring.ko", "virtio_pci.ko")
	before("virtio_pci_modern_dev.ko", "virtio_pci.ko")
	before("failover.ko", "net_failover.ko")
	before("net_failover.ko", "virtio_net.ko")
	left, err := os.ReadDir(string(theImages))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		if strings.HasPrefix(e.Name(), ".fetch-") {
			info, err := e.Info()
			if err == nil && time.Since(info.ModTime()) < time.Hour {
				t.Errorf("%s was left behind", e.Name())
			}
		}
	}
}

func TestInitramfsIsWhatTheKernelUnpacksAndAlwaysTheSame(t *testing.T) {
	k, err := theImages.findKernel(t.Context(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	first, err := packInitramfs(k)
	if err != nil {
		t.Fatal(err)
	}
	second, err := packInitramfs(k)
	if err != nil || !bytes.Equal(first, second) {
		t.Fatalf("two builds differ (%v)", err)
	}
	z, err := gzip.NewReader(bytes.NewReader(first))
	if err != nil {
		t.Fatal(err)
	}
	archive, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	list := exec.Command("busybox", "cpio", "-t")
	list.Stdin = bytes.NewReader(archive)
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"init", "shell", "bin/busybox", "modules/virtio_net.ko", "modules/order"} {
		if !slices.Contains(strings.Fields(string(out)), want) {
			t.Errorf("%s is missing in\n%s", want, out)
		}
	}
}
