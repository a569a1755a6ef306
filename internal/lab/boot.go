package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/migration/qmp"
)

// Sockets of an instance. A monitor serves one client at a time, so that the agent and the lab have one each.
const (
	agentMonitor = "qmp.sock"
	labMonitor   = "lab.sock"
	// lookMonitor is a pump's, for whoever wants to hear what it tells.
	lookMonitor = "look.sock"
)

// arrivalQueue is how many frames wait in a tap for a guest that stands still. It is what a pause of a tenth of a second at
// 80,000 packets a second needs; a frame may be an aggregate of 64 kB.
const arrivalQueue = 8192

// startVeth plugs a namespace in as a container is: through a veth.
func (l *Lab) startVeth(ctx context.Context, g *Guest, host fabric.HostID) (Instance, error) {
	i := Instance{Host: host, Device: nic.VethName(g.Port())}
	ns, err := l.namespace("vm-" + g.Name)
	if err != nil {
		return i, err
	}
	err = l.HostNamespace(host).Do(func() error {
		pair := nic.Veth{Name: i.Device, Peer: "eth0", PeerNamespace: ns, MTU: g.NIC.MTU, PeerMAC: g.NIC.MAC}
		return errors.Join(nic.CreateVeth(pair), nic.DisableIPv6(i.Device))
	})
	if err != nil {
		return i, err
	}
	if err := l.outlet().attach(ctx, host, g.Port(), api.Attachment{Device: i.Device, Kind: api.Veth}); err != nil {
		return i, err
	}
	return i, errors.Join(l.raise(host, i.Device), ns.Do(func() error { return configure(g.NIC) }))
}

// startPump makes a namespace whose NIC is a tap, joined to the host's tap by a pump.
func (l *Lab) startPump(ctx context.Context, g *Guest, host fabric.HostID) (Instance, error) {
	i, config, err := l.pumpInstance(g, host)
	if err != nil {
		return i, err
	}
	ns, err := l.namespace("vm-" + g.Name)
	if err != nil {
		return i, err
	}
	var guest *os.File
	err = ns.Do(func() (err error) {
		// The queue holds what the guest sends while it is paused: its kernel does not know that it stands still.
		guest, err = nic.OpenTap("eth0", nic.TapOptions{MTU: g.NIC.MTU, MAC: g.NIC.MAC, Offload: nic.FullOffload, QueueLength: arrivalQueue})
		return err
	})
	if err != nil {
		return i, err
	}
	defer guest.Close()
	tap, err := l.openTap(g, i, nic.FullOffload)
	if err != nil {
		return i, err
	}
	defer tap.Close()
	if err := l.outlet().attach(ctx, host, g.Port(), i.attachment()); err != nil {
		return i, err
	}
	if err := errors.Join(l.raise(host, i.Device), ns.Do(func() error { return configure(g.NIC) })); err != nil {
		return i, err
	}
	if i.Process, err = l.runPump(i, config, tap, guest); err != nil {
		return i, err
	}
	return i, i.await(ctx, "running")
}

// awaitPump starts a pump on the host that waits for the guest to arrive.
func (l *Lab) awaitPump(ctx context.Context, g *Guest, host fabric.HostID) (Instance, string, error) {
	i, config, err := l.pumpInstance(g, host)
	if err != nil {
		return i, "", err
	}
	config.Incoming = filepath.Join(i.Dir, "incoming.sock")
	tap, err := l.openTap(g, i, nic.FullOffload)
	if err != nil {
		return i, "", err
	}
	defer tap.Close()
	if i.Process, err = l.runPump(i, config, tap); err != nil {
		return i, "", err
	}
	return i, "pump:" + config.Incoming, i.await(ctx, "inmigrate")
}

func (l *Lab) pumpInstance(g *Guest, host fabric.HostID) (Instance, PumpConfig, error) {
	i := Instance{Host: host, Device: nic.TapName(g.Port())}
	dir, err := l.instanceDir(g.Name, host)
	i.Dir = dir
	monitors := []string{filepath.Join(dir, agentMonitor), filepath.Join(dir, labMonitor), filepath.Join(dir, lookMonitor)}
	return i, PumpConfig{Guest: g.Name, MAC: g.NIC.MAC, Monitors: monitors, Pause: g.Pause, Copy: g.Copy}, err
}

// runPump starts the pump in the host's namespace; the taps are its own from then on.
func (l *Lab) runPump(i Instance, config PumpConfig, taps ...*os.File) (Process, error) {
	b, err := json.Marshal(config)
	if err != nil {
		return Process{}, err
	}
	file := filepath.Join(i.Dir, "pump.json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		return Process{}, err
	}
	cmd := exec.Command(l.Binary, "lab", "pump", file)
	cmd.ExtraFiles = taps
	return detach(l.HostNamespace(i.Host), filepath.Join(i.Dir, "pump.log"), cmd)
}

// openTap makes the guest's tap on the host, down.
func (l *Lab) openTap(g *Guest, i Instance, offload int) (tap *os.File, err error) {
	err = l.HostNamespace(i.Host).Do(func() error {
		o := nic.TapOptions{MTU: g.NIC.MTU, MAC: nic.HostMAC(g.NIC.MAC), Offload: offload, QueueLength: arrivalQueue, NoIPv6: true}
		tap, err = nic.OpenTap(i.Device, o)
		return err
	})
	return tap, err
}

// configure sets a guest's NIC up, within its namespace.
func configure(n NIC) error {
	if err := nic.SetUp("eth0"); err != nil {
		return err
	}
	for _, a := range n.Addresses {
		if err := nic.AddAddress("eth0", a); err != nil {
			return err
		}
	}
	return nil
}

// attachment is how the instance is plugged in.
func (i Instance) attachment() api.Attachment {
	return api.Attachment{Device: i.Device, Kind: api.Tap, QMP: filepath.Join(i.Dir, agentMonitor)}
}

// state asks the instance's monitor, in QEMU's words.
func (i Instance) state(ctx context.Context) (string, error) {
	m, err := qmp.Dial(ctx, filepath.Join(i.Dir, labMonitor), nil)
	if err != nil {
		return "", err
	}
	defer m.Close()
	s, err := m.Status(ctx)
	return s.Status, err
}

// bootLimit is how long a hypervisor or pump may take to open its monitor.
const bootLimit = 10 * time.Second

// await waits until the instance is in this state.
func (i Instance) await(ctx context.Context, want string) error {
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	var have string
	err := poll(ctx, 5*time.Millisecond, func() (bool, error) {
		if !i.Process.Alive() {
			return false, errors.New("it has ended")
		}
		have, _ = i.state(ctx)
		return have == want, nil
	})
	if err != nil {
		return fmt.Errorf("wait until process %d is %s, it is %q: %w\n%s", i.Process.PID, want, have, err, i.log())
	}
	return nil
}

// log is the end of what the instance wrote.
func (i Instance) log() string {
	return tail(filepath.Join(i.Dir, "pump.log")) + tail(filepath.Join(i.Dir, "qemu.log"))
}

// endInstance ends the hypervisor or pump; its tap goes with it.
func (l *Lab) endInstance(i Instance) error {
	if err := i.Process.Kill(); err != nil {
		return err
	}
	return l.HostNamespace(i.Host).Do(func() error { return nic.Delete(i.Device) })
}
