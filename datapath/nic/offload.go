package nic

import (
	"bytes"
	"fmt"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Feature is an offload of a device, as `ethtool -k` names it in long form.
type Feature string

// The features the lab and the benchmarks switch one by one.
const (
	GSO     Feature = "tx-generic-segmentation"
	GRO     Feature = "rx-gro"
	GROList Feature = "rx-gro-list"
)

// ethtool commands and string set (linux/ethtool.h).
const (
	ethtoolGStrings  = 0x1b
	ethtoolGSSetInfo = 0x37
	ethtoolGFeatures = 0x3a
	ethtoolSFeatures = 0x3b
	stringsFeatures  = 4
	stringSize       = 32
	maxFeatures      = 128
)

// SetFeatures switches offloads of the device on or off. A feature this kernel does not know, or that the device cannot
// change to the wanted value, is an error that names it.
func SetFeatures(device string, want map[Feature]bool) error {
	if err := setFeatures(device, want); err != nil {
		return fail("set offloads of", device, err)
	}
	have, err := Features(device)
	if err != nil {
		return err
	}
	for name, on := range want {
		if have[name] != on {
			return fmt.Errorf("set offloads of %s: %s stays %v: the device does not let it be changed", device, name, !on)
		}
	}
	return nil
}

// ForceSegmentation switches off whatever lets a frame larger than the MTU leave the device, as a NIC without any
// segmentation offload does: the kernel cuts before sending.
func ForceSegmentation(device string) error {
	have, err := Features(device)
	if err != nil {
		return err
	}
	off := map[Feature]bool{}
	for name, on := range have {
		if on && (strings.HasSuffix(string(name), "-segmentation") || name == "tx-gso-list" || name == "tx-gso-partial") {
			off[name] = false
		}
	}
	return SetFeatures(device, off)
}

// Features reads which offloads of the device are on.
func Features(device string) (map[Feature]bool, error) {
	names, err := featureNames(device)
	if err != nil {
		return nil, fail("read offloads of", device, err)
	}
	var request struct {
		cmd, size uint32
		blocks    [maxFeatures / 32]struct{ available, requested, active, never uint32 }
	}
	request.cmd, request.size = ethtoolGFeatures, uint32((len(names)+31)/32)
	if err := ethtool(device, unsafe.Pointer(&request)); err != nil {
		return nil, fail("read offloads of", device, err)
	}
	active := make(map[Feature]bool, len(names))
	for i, name := range names {
		active[name] = request.blocks[i/32].active&(1<<(i%32)) != 0
	}
	return active, nil
}

func setFeatures(device string, want map[Feature]bool) error {
	names, err := featureNames(device)
	if err != nil {
		return err
	}
	var request struct {
		cmd, size uint32
		blocks    [maxFeatures / 32]struct{ valid, requested uint32 }
	}
	request.cmd, request.size = ethtoolSFeatures, uint32((len(names)+31)/32)
	known := 0
	for i, name := range names {
		on, wanted := want[name]
		if !wanted {
			continue
		}
		known++
		request.blocks[i/32].valid |= 1 << (i % 32)
		if on {
			request.blocks[i/32].requested |= 1 << (i % 32)
		}
	}
	if known != len(want) {
		return fmt.Errorf("this kernel does not know all of %v: %w", want, unix.EOPNOTSUPP)
	}
	return ethtool(device, unsafe.Pointer(&request))
}

// featureNames reads the kernel's table of features; a feature's number is its place in the table.
func featureNames(device string) ([]Feature, error) {
	var info struct {
		cmd, reserved uint32
		mask          uint64
		count         uint32
	}
	info.cmd, info.mask = ethtoolGSSetInfo, 1<<stringsFeatures
	if err := ethtool(device, unsafe.Pointer(&info)); err != nil {
		return nil, err
	}
	if info.count > maxFeatures {
		return nil, fmt.Errorf("the kernel has %d offload features, this release knows up to %d", info.count, maxFeatures)
	}
	var table struct {
		cmd, set, count uint32
		text            [maxFeatures * stringSize]byte
	}
	table.cmd, table.set, table.count = ethtoolGStrings, stringsFeatures, info.count
	if err := ethtool(device, unsafe.Pointer(&table)); err != nil {
		return nil, err
	}
	names := make([]Feature, info.count)
	for i := range names {
		text := table.text[i*stringSize : (i+1)*stringSize]
		name, _, _ := bytes.Cut(text, []byte{0})
		names[i] = Feature(name)
	}
	return names, nil
}

// ethtool passes one request to the device's driver (SIOCETHTOOL, linux/sockios.h).
func ethtool(device string, request unsafe.Pointer) error {
	if err := checkName(device); err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifreq := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: request}
	copy(ifreq.name[:], device)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifreq)))
	if errno == unix.ENODEV {
		return ErrNoDevice
	}
	if errno != 0 {
		return errno
	}
	return nil
}
