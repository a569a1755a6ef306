package tracing

import "strings"

// KernelReason is why the kernel itself has dropped a packet, by the kernel's own name without its prefix, as in "FULL_RING"
// (enum skb_drop_reason of include/net/dropreason-core.h). Empty is none.
type KernelReason string

// kernelPrefix tells the kernel's reasons from our own where both are named.
const kernelPrefix = "kernel:"

// KernelUncounted are drops that were seen and found no counter.
const KernelUncounted KernelReason = "UNCOUNTED"

// String is how the reason is written among our own, as in "kernel:FULL_RING"; empty for none.
func (r KernelReason) String() string {
	if r == "" {
		return ""
	}
	return kernelPrefix + string(r)
}

// ParseKernelReason reads what String has written; false where it is no reason of the kernel.
func ParseKernelReason(s string) (KernelReason, bool) {
	name, ok := strings.CutPrefix(s, kernelPrefix)
	return KernelReason(name), ok && name != ""
}

// Class is who should care: the kernel drops where it lacks something.
func (KernelReason) Class() Class { return ClassResource }

// Doc says in one phrase what the reason means.
func (r KernelReason) Doc() string {
	if d, known := kernelReasons[r]; known {
		return d.doc
	}
	return "the kernel dropped it at our device: enum skb_drop_reason of the kernel's sources says what the name means"
}

// Fix says what to do about it; empty where nothing is known to help.
func (r KernelReason) Fix() string { return kernelReasons[r].fix }

// kernelReasons are those that our devices are known to meet.
var kernelReasons = map[KernelReason]struct{ doc, fix string }{
	KernelUncounted:   {"dropped by the kernel on some device of ours: there was no counter for it any more", ""},
	"NOT_SPECIFIED":   {"the kernel dropped it and does not say why", "see the device's own counters: ip -s -s link show"},
	"FULL_RING":       {"the guest does not take its packets: the queue of its tap is full", "look at the guest: it hangs, or has too little CPU for its traffic"},
	"TAP_FILTER":      {"the tap's own filter (TUNSETTXFILTER) lets none through", "look at how the hypervisor opened the tap"},
	"TAP_TXFILTER":    {"the tap's own filter (TUNSETTXFILTER) lets none through", "look at how the hypervisor opened the tap"},
	"DEV_READY":       {"the device is down, or nobody has opened the tap", "start the guest, or bring the device up"},
	"NOMEM":           {"the kernel had no memory for it", "give the host memory: see dmesg and free"},
	"QDISC_DROP":      {"the queue in front of the device was full", "the device is slower than what it is given: see tc -s qdisc"},
	"QUEUE_PURGE":     {"it waited in a queue that was thrown away, as when a device goes down", ""},
	"CPU_BACKLOG":     {"the queue of a processor was full", "raise net.core.netdev_max_backlog, or spread the interrupts over more processors"},
	"XDP":             {"somebody's XDP program dropped it", "find it: bpftool net"},
	"NETFILTER_DROP":  {"a rule of the host's firewall dropped it", "nft list ruleset"},
	"PKT_TOO_BIG":     {"it is longer than the device takes", "compare the MTU of the device with that of the switch"},
	"SKB_GSO_SEG":     {"the kernel could not cut an aggregate into packets", "see the device's offloads: ethtool -k"},
	"HDR_TRUNC":       {"it ends within its headers", ""},
	"NO_SOCKET":       {"it was for the host itself, where nobody listens", ""},
	"IP_OUTNOROUTES":  {"the host has no route to where it goes", "ip route get ADDRESS"},
	"NEIGH_FAILED":    {"the next host did not say its MAC address", "see ip neigh, and whether the other host is there"},
	"SOCKET_RCVBUFF":  {"the socket that it was for had no room", ""},
	"UNHANDLED_PROTO": {"it was for the host itself, which does not know its protocol", ""},
	"OTHERHOST":       {"it was for another host, and heard only because the NIC hears everything", ""},
	"IP_RPFILTER":     {"its source address does not belong behind this device (rp_filter)", "sysctl net.ipv4.conf.DEVICE.rp_filter"},
}
