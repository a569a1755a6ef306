package lab

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
)

// images is the directory that keeps what virtual machines boot from, between labs.
type images string

// theImages are those of this computer.
const theImages images = "/var/cache/weft/lab"

// file is the path of something in the directory.
func (d images) file(elem ...string) string {
	return filepath.Join(append([]string{string(d)}, elem...)...)
}

// kernel is Debian's kernel for clouds, as far as a guest needs it; it is unpacked, never installed.
type kernel struct {
	// Image is the path of vmlinuz; Modules are paths of modules in the order they must be loaded in.
	Image   string
	Modules []string
}

// guestModules are what a guest loads, with whatever they depend on.
var guestModules = []string{"virtio_pci", "virtio_net"}

// findKernel returns the newest kernel in the cache, and fetches one from Debian when there is none.
func (d images) findKernel(ctx context.Context, progress Progress) (kernel, error) {
	if runtime.GOARCH != "amd64" {
		return kernel{}, fmt.Errorf("virtual machines in a lab boot Debian's amd64 kernel; this machine is %s: use guests without --qemu", runtime.GOARCH)
	}
	if k, err := d.cachedKernel(); err == nil {
		return k, nil
	}
	if err := d.fetchKernel(ctx, progress); err != nil {
		return kernel{}, fmt.Errorf("get a kernel for virtual machines: %w", err)
	}
	return d.cachedKernel()
}

func (d images) cachedKernel() (kernel, error) {
	dirs, err := filepath.Glob(d.file("linux-image-*"))
	if err != nil || len(dirs) == 0 {
		return kernel{}, errors.New("no kernel is cached")
	}
	dir := slices.Max(dirs) // of different versions any will do
	order, err := os.ReadFile(filepath.Join(dir, "order"))
	if err != nil {
		return kernel{}, err
	}
	k := kernel{Image: filepath.Join(dir, "vmlinuz")}
	for _, m := range strings.Fields(string(order)) {
		k.Modules = append(k.Modules, filepath.Join(dir, m))
	}
	return k, nil
}

// fetchKernel downloads the package and unpacks what is needed; it appears in the cache complete or not at all.
func (d images) fetchKernel(ctx context.Context, progress Progress) error {
	if err := NeedPackages(ctx, progress, "apt-get", "dpkg-deb"); err != nil {
		return err
	}
	name, err := kernelPackage(ctx)
	if err != nil {
		return err
	}
	progress("Fetching Debian's cloud kernel for virtual machines: %s", name)
	if err := os.MkdirAll(string(d), 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(string(d), ".fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if err := aptGet(ctx, work, "download", "-qq", "-o", "APT::Sandbox::User=root", name); err != nil {
		return fmt.Errorf("download %s: %w; is the network up? A guest without --qemu needs none", name, err)
	}
	debs, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("download %s: apt-get left %v", name, debs)
	}
	if err := unpackKernel(ctx, debs[0], work); err != nil {
		return fmt.Errorf("unpack %s: %w", filepath.Base(debs[0]), err)
	}
	if err := os.Remove(debs[0]); err != nil {
		return err
	}
	if err := os.Chmod(work, 0o755); err != nil {
		return err
	}
	target := d.file(name)
	if err := os.RemoveAll(target); err != nil {
		return err
	}
	return os.Rename(work, target)
}

var kernelDependency = regexp.MustCompile(`Depends: (linux-image-[0-9][^\s]*-cloud-amd64)`)

// kernelPackage is the real package behind linux-image-cloud-amd64.
func kernelPackage(ctx context.Context) (string, error) {
	for range 2 {
		out, err := exec.CommandContext(ctx, "apt-cache", "depends", "linux-image-cloud-amd64").Output()
		if m := kernelDependency.FindSubmatch(out); err == nil && m != nil {
			return string(m[1]), nil
		}
		if err := aptGet(ctx, "", "update", "-qq"); err != nil {
			return "", fmt.Errorf("refresh the package lists: %w; is the network up?", err)
		}
	}
	return "", errors.New("the package lists have no linux-image-cloud-amd64: is this Debian's archive?")
}

// unpackKernel takes vmlinuz and the modules guests need out of the package.
func unpackKernel(ctx context.Context, deb, dir string) error {
	modules := map[string][]byte{}
	err := readPackage(ctx, deb, func(name string, content io.Reader) error {
		base := path.Base(name)
		if strings.HasPrefix(base, "vmlinuz-") {
			b, err := io.ReadAll(content)
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, "vmlinuz"), b, 0o644)
		}
		module, _, isModule := strings.Cut(base, ".ko")
		if !isModule || !strings.Contains(module, "virtio") && !strings.Contains(module, "failover") {
			return nil
		}
		b, err := io.ReadAll(content)
		if err == nil && strings.HasSuffix(base, ".xz") {
			b, err = unxz(ctx, b)
		}
		modules[strings.ReplaceAll(module, "-", "_")] = b
		return err
	})
	if err != nil {
		return err
	}
	order, err := loadOrder(modules, guestModules)
	if err != nil {
		return err
	}
	var list strings.Builder
	for _, m := range order {
		fmt.Fprintf(&list, "%s.ko\n", m)
		if err := os.WriteFile(filepath.Join(dir, m+".ko"), modules[m], 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "order"), []byte(list.String()), 0o644)
}

// readPackage gives every regular file of a Debian package to each.
func readPackage(ctx context.Context, deb string, each func(name string, content io.Reader) error) error {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	files := tar.NewReader(out)
	for {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil && header.Typeflag == tar.TypeReg {
			err = each(header.Name, files)
		}
		if err != nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			return err
		}
	}
	_, _ = io.Copy(io.Discard, out)
	return cmd.Wait()
}

func unxz(ctx context.Context, b []byte) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "xz", "-dc")
	cmd.Stdin = bytes.NewReader(b)
	return cmd.Output()
}

// loadOrder lists the wanted modules with all they depend on, dependencies first, as each module's own .modinfo says.
func loadOrder(modules map[string][]byte, want []string) ([]string, error) {
	var order []string
	var visit func(string) error
	visit = func(name string) error {
		if name == "" || slices.Contains(order, name) {
			return nil
		}
		b, ok := modules[name]
		if !ok {
			return fmt.Errorf("the package has no module %s", name)
		}
		depends, err := dependencies(b)
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		for _, d := range depends {
			if err := visit(strings.ReplaceAll(d, "-", "_")); err != nil {
				return err
			}
		}
		order = append(order, name)
		return nil
	}
	for _, name := range want {
		if err := visit(name); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// dependencies reads "depends=a,b" of a module.
func dependencies(module []byte) ([]string, error) {
	file, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return nil, err
	}
	section := file.Section(".modinfo")
	if section == nil {
		return nil, errors.New("it has no .modinfo section")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for _, field := range bytes.Split(info, []byte{0}) {
		if list, ok := bytes.CutPrefix(field, []byte("depends=")); ok {
			return strings.Split(string(list), ","), nil
		}
	}
	return nil, nil
}
