#!/bin/sh
# Runs tests of package datapath on another kernel, as far as Debian has it, in an emulated machine:
#   deploy/on-kernel.sh SUITE [TESTS]      e.g. bookworm-backports (6.12), or sid 'TestGuards|TestArrivals'
# The kernel is unpacked under /var/cache/weft, not installed. As root it needs nothing but Debian's packages and Go.
# Exit status 0: every test passed. Emulation makes a minute of some seconds; a suite of all tests takes an hour.
set -eu
suite=${1:?usage: deploy/on-kernel.sh SUITE [TESTS]} tests=${2:-'TestAbilities|TestGuestsPing|TestGuards|TestArrivals|TestDepartures'}
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
modules="ip6_udp_tunnel udp_tunnel vxlan tun veth llc stp bridge"
cd "$(dirname "$0")/.."
deploy/deps.sh lab
for tool in curl cpio xz; do command -v "$tool" >/dev/null || apt-get install -y -qq --no-install-recommends curl cpio xz-utils >/dev/null; done

cache=/var/cache/weft/kernels/$suite
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$cache" "$root"/bin "$root"/lib64 "$root"/mods "$root"/tests "$root"/proc "$root"/sys "$root"/dev "$root"/tmp "$root"/run
curl -fsS "$mirror/dists/$suite/main/binary-amd64/Packages.xz" | xz -dc |
	awk '/^Package: linux-(image|binary|modules)-[0-9].*-cloud-amd64$/ {p = $2} /^Filename:/ {if (p) print p, $2; p = ""}' >"$cache/list"
release=$(sed -n 's/^linux-image-\([^ ]*\) .*/\1/p' "$cache/list" | sort -V | tail -n 1)
[ -n "$release" ] || { echo "$suite has no cloud kernel" >&2; exit 1; }
if [ ! -e "$cache/$release/whole" ]; then
	rm -rf "${cache:?}/$release" && mkdir "$cache/$release"
	while read -r package file; do
		case $package in
		linux-*-"$release") curl -fsS "$mirror/$file" -o "$cache/deb" && dpkg-deb -x "$cache/deb" "$cache/$release" && rm "$cache/deb" ;;
		esac
	done <"$cache/list"
	touch "$cache/$release/whole"
fi

CGO_ENABLED=0 go test -c -o "$root/bin/datapath.test" ./datapath
cp datapath/*.o "$root/tests/"
cp "$(command -v busybox)" "$root/bin/busybox"
for applet in sh mount insmod mkdir poweroff sleep uname; do ln -s busybox "$root/bin/$applet"; done
for program in ip ping; do # busybox has not all of their options
	path=$(command -v "$program")
	cp "$path" "$root/bin/$program"
	for library in $(ldd "$path" | grep -o '/[^ ]*'); do mkdir -p "$root$(dirname "$library")" && cp -L "$library" "$root$library"; done
done
for module in $modules; do
	file=$(find "$cache/$release" -name "$module.ko*" | head -n 1)
	case $file in *.xz) xz -dc "$file" >"$root/mods/$module.ko" ;; ?*) cp "$file" "$root/mods/$module.ko" ;; esac
done
cat >"$root/init" <<EOF
#!/bin/sh
export PATH=/bin HOME=/tmp
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /tmp; mount -t tmpfs run /run
mount -t bpf bpf /sys/fs/bpf
for m in $modules; do insmod /mods/\$m.ko; done
ip link set lo up
echo "Linux \$(uname -r)"
cd /tests && datapath.test -test.v -test.timeout 2h -test.run '$tests' && echo EVERY TEST PASSED
poweroff -f
EOF
chmod +x "$root/init"
(cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$cache/initrd"

# cx16 is off: QEMU 7.2 emulates cmpxchg16b with wrong flags, which ends most kernels.
timeout 7200 qemu-system-x86_64 -accel tcg -cpu max,-cx16 -m 2048 -nographic -no-reboot -nodefaults -serial stdio \
	-kernel "$(find "$cache/$release" -name 'vmlinuz*' | head -n 1)" -initrd "$cache/initrd" \
	-append "console=ttyS0 quiet panic=-1" </dev/null | tr -d '\r' >"$cache/output"
grep -aoE '(Linux [0-9].*|^--- .*)' "$cache/output" || true
if ! grep -aq '^EVERY TEST PASSED' "$cache/output"; then
	tail -n 60 "$cache/output"
	exit 1
fi
echo "every test passed"
