// Package services runs what a host does for the guests of its internal switches: DHCP and router advertisements, DNS, and NAT.
// What is wanted is a pure function of the fabric's records and the host. Each server runs by itself: one that fails is
// opened again and harms no other, and what is in the kernel (NAT, forwarding) stays when the agent ends.
package services

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"runtime/debug"
	"slices"
	"sync"

	"github.com/weftnet/weft/agent/dhcp"
	"github.com/weftnet/weft/agent/dns"
	"github.com/weftnet/weft/datapath/nat"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
)

// Options of a Keeper.
type Options struct {
	Host fabric.HostID
	// File remembers which devices' forwarding was opened; see nat.Table.
	File   string
	Logger *slog.Logger
	// Notify is told what an operator should know: of a port, of the switch where it has none. It must not block.
	Notify func(kind, object, text string)
	// Trouble is told of each part what is wrong with it, nil when nothing is.
	Trouble func(subject string, err error)
}

// Keeper keeps the servers and the NAT table as the records say. Its methods but Counts are called by one goroutine, which alone
// changes servers, with mu.
type Keeper struct {
	o     Options
	table nat.Table

	mu      sync.Mutex
	servers map[string]*running
}

// server is what one switch's service is; *dhcp.Server is one.
type server interface {
	Run(ctx context.Context) error
	Close() error
}

// running is a server that has been opened.
type running struct {
	server
	// index is the kernel's number of the device it was opened on: a device that was made anew needs another server.
	index  int
	config any
	cancel context.CancelFunc
	ended  chan error
}

// New makes a keeper; nothing runs before Keep.
func New(o Options) *Keeper {
	return &Keeper{o: o, table: nat.Table{File: o.File}, servers: map[string]*running{}}
}

// Keep has everything run as a snapshot says: it is called again whenever something may have changed, and does nothing when all
// is as it should be. ctx ends the servers, too.
func (k *Keeper) Keep(ctx context.Context, snap *fabric.Snapshot) {
	want := Wanted(snap, k.o.Host)
	repaired, err := k.table.Keep(want.NAT)
	k.o.Trouble("nat", err)
	if repaired {
		k.o.Notify("nat.repaired", "", fmt.Sprintf("The nftables table %s of host %s was changed by something else, and is put back.", nat.TableName, k.o.Host))
	}
	wanted := map[string]service{}
	for _, c := range want.DHCP {
		wanted["dhcp on "+c.Device] = service{device: c.Device, config: c, open: k.openDHCP(c)}
	}
	for _, c := range want.DNS {
		wanted["dns on "+c.Device] = service{device: c.Device, config: c, open: k.openDNS(c)}
	}
	for subject := range k.servers {
		if _, still := wanted[subject]; !still {
			k.o.Trouble(subject, k.stop(subject))
		}
	}
	for _, subject := range slices.Sorted(maps.Keys(wanted)) {
		k.o.Trouble(subject, k.keep(ctx, subject, wanted[subject]))
	}
}

// service is what is wanted of one server.
type service struct {
	device string
	config any
	open   func(context.Context) (server, error)
}

// keep has one server run, with the newest configuration.
func (k *Keeper) keep(ctx context.Context, subject string, s service) error {
	device, err := nic.Find(s.device)
	if errors.Is(err, nic.ErrNoDevice) {
		return k.stop(subject) // the host is not on the switch yet
	}
	if err != nil {
		return err
	}
	var failed error
	if r := k.servers[subject]; r != nil {
		select {
		case failed = <-r.ended:
			failed = cmp.Or(failed, errors.New("it has ended"))
			k.set(subject, nil)
			_ = r.Close()
		default:
			if r.index == device.Index && k.renew(r, s.config) {
				return nil
			}
			if err := k.stop(subject); err != nil {
				return err
			}
		}
	}
	opened, err := s.open(ctx)
	if err != nil {
		return errors.Join(failed, err)
	}
	k.set(subject, start(ctx, opened, device.Index, s.config))
	return failed
}

// renew gives a server that runs another configuration. It reports false where that needs another server.
func (k *Keeper) renew(r *running, config any) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if reflect.DeepEqual(r.config, config) {
		return true
	}
	switch s := r.server.(type) {
	case *dhcp.Server:
		s.Set(config.(dhcp.Config))
	case *dns.Server:
		next := config.(dns.Config)
		if !slices.Equal(r.config.(dns.Config).Addresses, next.Addresses) {
			return false
		}
		s.Set(next)
	}
	r.config = config
	return true
}

// start runs a server. Its panic is its own end and nobody else's.
func start(ctx context.Context, s server, index int, config any) *running {
	ctx, cancel := context.WithCancel(ctx)
	r := &running{server: s, index: index, config: config, cancel: cancel, ended: make(chan error, 1)}
	go func() {
		defer func() {
			if cause := recover(); cause != nil {
				r.ended <- fmt.Errorf("it panicked and is started again: %v\n%s", cause, debug.Stack())
			}
		}()
		r.ended <- s.Run(ctx)
	}()
	return r
}

// set remembers a server, or that there is none.
func (k *Keeper) set(subject string, r *running) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if r == nil {
		delete(k.servers, subject)
		return
	}
	k.servers[subject] = r
}

// stop ends a server, if it runs.
func (k *Keeper) stop(subject string) error {
	r := k.servers[subject]
	if r == nil {
		return nil
	}
	k.set(subject, nil)
	r.cancel()
	return errors.Join(<-r.ended, r.Close())
}

// Close ends the servers. What guests were told and what the kernel holds stays.
func (k *Keeper) Close() error {
	var all error
	for _, subject := range slices.Collect(maps.Keys(k.servers)) {
		all = errors.Join(all, k.stop(subject))
	}
	return all
}

func (k *Keeper) openDHCP(c dhcp.Config) func(context.Context) (server, error) {
	return func(ctx context.Context) (server, error) {
		s, err := dhcp.Open(ctx, c, dhcp.Options{Logger: k.o.Logger, Notify: func(n dhcp.Notice) {
			k.o.Notify("dhcp.declined", "port/"+n.Port, n.Text)
		}})
		if err != nil {
			return nil, err
		}
		return s, nil
	}
}

func (k *Keeper) openDNS(c dns.Config) func(context.Context) (server, error) {
	return func(ctx context.Context) (server, error) {
		s, err := dns.Open(ctx, c, k.o.Logger)
		if err != nil {
			return nil, err
		}
		return s, nil
	}
}
