package main

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"

	"github.com/weftnet/weft/datapath/nic"
)

// buildFiltered is the bridge with nftables on both hosts: rules for the guests of the lane across hosts.
func buildFiltered(number int) (*site, error) {
	s, err := buildBridge(number)
	s.peer = filtered
	if err != nil {
		return s, err
	}
	guests := []map[string]netip.Addr{{portA: s.sender[cross]}, {portB: s.lanes[cross].addr}}
	s.judge = func(r ruleset) error {
		for i, host := range s.hosts {
			if err := host.Do(func() error { return filter(r, guests[i]) }); err != nil {
				return fmt.Errorf("give %s to host %d of %s: %w", r, i, s.peer, err)
			}
		}
		return nil
	}
	return s, nil
}

// filter puts the ruleset in force in the calling thread's namespace. Only stateful rules take the bridge's packets through
// br_netfilter.
func filter(r ruleset, guests map[string]netip.Addr) error {
	call := "0"
	if r.n > 0 && r.stateful {
		call = "1"
	}
	nft := exec.Command("nft", "-f", "-")
	nft.Stdin = strings.NewReader(r.nftables(guests))
	if out, err := nft.CombinedOutput(); err != nil {
		return fmt.Errorf("load rules into nftables: %w: %s", err, out)
	}
	return nic.SetSysctl("net/bridge/bridge-nf-call-iptables", call)
}
