#!/usr/bin/env bash
#
# make-guest.sh DIRECTORY: installs QEMU and libvirt's daemon, and puts there a kernel (vmlinuz) and a root (initrd.gz)
# for a guest with one virtio device. The kernel is Debian's for clouds, unpacked and not installed.
set -euo pipefail
out=$1

export DEBIAN_FRONTEND=noninteractive
wanted=(qemu-system-x86 busybox-static libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients)
dpkg --status "${wanted[@]}" >/dev/null 2>&1 \
    || { apt-get update -q && apt-get install -q -y --no-install-recommends "${wanted[@]}"; } >&2

[[ ! -e $out/initrd.gz ]] || exit 0
mkdir -p "$out"
cd "$out"
kernel=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-/ { print $2; exit }')
# As root: the user _apt may not be able to write here.
apt-get download -q -o APT::Sandbox::User=root "$kernel" >&2
mkdir -p kernel root/{bin,proc,sys,dev,modules}
dpkg-deb --fsys-tarfile linux-image-*.deb \
    | tar --extract --directory kernel --wildcards './boot/vmlinuz-*' '*/virtio*.ko' '*/net_failover.ko' '*/failover.ko'
cp kernel/boot/vmlinuz-* vmlinuz
cp /bin/busybox root/bin/busybox
number=0
# In the order in which they need each other.
for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci failover net_failover virtio_net; do
    number=$((number + 1))
    cp "$(find kernel -name "$module.ko")" "root/modules/$number-$module.ko"
done
cat >root/init <<'END'
#!/bin/busybox sh
/bin/busybox mkdir -p /sbin /usr/bin /usr/sbin
/bin/busybox --install -s
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*.ko; do insmod "$module"; done
said() { sed -n "s/.*\b$1=\([^ ]*\).*/\1/p" /proc/cmdline; }
ip link set lo up
ip link set eth0 up
ip addr add "$(said address)" dev eth0
while :; do nc -l -p 5000 -e /bin/cat; done &
echo "guest up, mac $(cat /sys/class/net/eth0/address), mtu $(cat /sys/class/net/eth0/mtu)"
ping -c 3 -W 5 "$(said other)"
echo "guest pinged: $?"
while :; do sleep 60; done
END
chmod +x root/init
(cd root && find . | /bin/busybox cpio -o -H newc | gzip -1) >initrd.gz.part
mv initrd.gz.part initrd.gz
rm -rf kernel root linux-image-*.deb
