#!/bin/sh
# Installs from Debian what is missing: `deps.sh lab` for running labs and tests, `deps.sh generate` for building the BPF
# objects. Says what it does, does nothing when all is there.
set -eu
case "${1:-}" in
lab) want="iproute2:ip nftables:nft iputils-ping:ping iperf3:iperf3 qemu-system-x86:qemu-system-x86_64 busybox-static:busybox isc-dhcp-client:dhclient tcpdump:tcpdump bind9-dnsutils:dig ndisc6:rdisc6 systemd:/lib/systemd/systemd-networkd libvirt-daemon:libvirtd libvirt-daemon-driver-qemu:/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so libvirt-clients:virsh" ;;
# The compiler's version is fixed: the committed objects must be reproducible to the byte.
generate) want="clang-19:clang-19 llvm-19:llvm-strip-19 libbpf-dev:/usr/include/bpf/bpf_helpers.h" ;;
*) echo "usage: deps.sh lab|generate" >&2; exit 2 ;;
esac
missing=""
for pair in $want; do
	package=${pair%%:*} probe=${pair#*:}
	case "$probe" in
	/*) [ -e "$probe" ] || missing="$missing $package" ;;
	*) command -v "$probe" >/dev/null 2>&1 || missing="$missing $package" ;;
	esac
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ]; then
	echo "these packages are missing:$missing; install them with: sudo apt-get install$missing" >&2
	exit 1
fi
echo "installing from Debian:$missing" >&2
apt-get update -qq
# iperf3 asks a question on installation unless told not to.
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
