package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/identity"
	"github.com/weftnet/weft/fabric/store"
	"github.com/weftnet/weft/internal/lab"
)

// fillCommand makes this program fill the fabric of a lab: fill DIR PORTS. It runs in a host's namespace, where etcd is.
const fillCommand = "fill"

// blueSwitch has room for many ports.
func blueSwitch() *fabric.Switch {
	return &fabric.Switch{
		TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindSwitch}, Metadata: fabric.Metadata{Name: "blue"},
		Spec: fabric.SwitchSpec{Type: fabric.Private, Subnets: []netip.Prefix{netip.MustParsePrefix("10.32.0.0/16")}},
	}
}

// memory measures the agent of h4, which runs no etcd, while the other hosts hold many ports of a switch it has a port on.
func (b *bed) memory(ctx context.Context, e effort) ([]figure, error) {
	if _, err := b.lab.AddGuest(ctx, lab.GuestOptions{Name: "a", Host: "h4", Switch: "blue", Kind: lab.Veth}, nil); err != nil {
		return nil, err
	}
	few, err := memoryOf(b.lab.Agent("h4"), "VmRSS")
	if err != nil {
		return nil, err
	}
	if err := b.fill(ctx, e.Ports); err != nil {
		return nil, err
	}
	changed, err := b.changesWithMany(ctx, min(e.Changes, 100))
	if err != nil {
		return nil, err
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(e.Settle):
	}
	many, err := memoryOf(b.lab.Agent("h4"), "VmRSS")
	if err != nil {
		return nil, err
	}
	peak, err := memoryOf(b.lab.Agent("h4"), "VmHWM")
	if err != nil {
		return nil, err
	}
	ports := thousands(e.Ports)
	return []figure{
		{Name: "rss-few", Text: "memory (RSS) of an agent without etcd, one port", Unit: "MB", Values: []float64{few}},
		{Name: "rss", Text: "the same with " + ports + " ports on other hosts", Unit: "MB", Values: []float64{many}, Most: 80},
		{Name: "rss-peak", Text: "the same, largest while the ports were made", Unit: "MB", Values: []float64{peak}},
		{Name: "change-many", Text: "change to in force on 4 hosts with " + ports + " ports, through the API", Unit: "ms", Values: changed},
	}, nil
}

// changesWithMany times changes of the one port that has a guest.
func (b *bed) changesWithMany(ctx context.Context, n int) ([]float64, error) {
	port, err := b.api.Port(ctx, "a")
	if err != nil {
		return nil, err
	}
	if err := b.put(ctx, port); err != nil { // by then every host has all ports
		return nil, err
	}
	return b.changes(ctx, "a", n)
}

// fill makes ports that h1 to h3 hold, as if their guests ran there.
func (b *bed) fill(ctx context.Context, ports int) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var said strings.Builder
	cmd := exec.CommandContext(ctx, self, fillCommand, b.lab.Dir, strconv.Itoa(ports))
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := b.lab.HostNamespace("h1").Start(cmd); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("fill the fabric with %d ports: %w: %s", ports, err, &said)
	}
	return nil
}

// fillLab is the program that fill starts.
func fillLab(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("usage: %s DIR PORTS", fillCommand)
	}
	ports, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	id, err := identity.Load(identity.EtcdFilesIn(filepath.Join(args[0], "h1", "tls")), time.Now())
	if err != nil {
		return err
	}
	s, err := store.Open(ctx, store.Options{Endpoints: []string{"https://10.240.0.1:2379"}, TLS: id.Client(), Timeout: time.Minute})
	if err != nil {
		return err
	}
	defer s.Close()
	const atOnce = 500
	for begin := 0; begin < ports; begin += atOnce {
		if err := fillSome(ctx, s, begin, min(begin+atOnce, ports)); err != nil {
			return err
		}
	}
	return nil
}

// fillSome makes the ports numbered from begin to end, in turn on three hosts.
func fillSome(ctx context.Context, s *store.Store, begin, end int) error {
	var ports []fabric.Object
	var locations []fabric.Location
	for i := begin; i < end; i++ {
		name := fmt.Sprintf("r%d", i)
		ports = append(ports, &fabric.Port{
			TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindPort},
			Metadata: fabric.Metadata{Name: name, Labels: map[string]string{"tier": "web"}}, Spec: fabric.PortSpec{Switch: "blue", VM: name},
		})
		locations = append(locations, fabric.Location{Port: fabric.PortID(name), Switch: "blue", Host: fabric.HostID(fmt.Sprintf("h%d", 1+i%3)), Epoch: 1})
	}
	if _, err := s.Apply(ctx, ports, store.ApplyOptions{}); err != nil {
		return err
	}
	return s.UpdateLocations(ctx, nil, locations...)
}

// memoryOf reads a line of a process's status, in MB of 10^6 bytes.
func memoryOf(p lab.Process, line string) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), line+":")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0, fmt.Errorf("process %d has no %s", p.PID, line)
	}
	kib, err := strconv.Atoi(fields[0])
	return float64(kib) * 1024 / 1e6, err
}

// thousands writes a number as people do.
func thousands(n int) string {
	if n < 1000 {
		return strconv.Itoa(n)
	}
	return fmt.Sprintf("%s,%03d", thousands(n/1000), n%1000)
}
