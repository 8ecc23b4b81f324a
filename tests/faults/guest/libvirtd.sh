#!/usr/bin/env bash
#
# libvirtd.sh DIRECTORY: libvirtd without systemd, where this runs, and with all that is its own under that directory,
# bound over its fixed paths in a mount namespace of its own. Ends with this script, and its guests with it.
set -euo pipefail
d=$1
mkdir -p "$d"/{etc/qemu,run,lib,cache,log,drivers} /var/lib/libvirt /var/cache/libvirt /var/log/libvirt /run/libvirt /etc/libvirt
# The driver for QEMU alone.
ln -sf /usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so "$d/drivers/"
cat >"$d/etc/libvirtd.conf" <<END
unix_sock_group = "root"
auth_unix_ro = "none"
auth_unix_rw = "none"
log_outputs = "2:file:$d/libvirtd.log"
END
cat >"$d/etc/qemu.conf" <<'END'
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = [ ]
cgroup_controllers = [ ]
stdio_handler = "file"
END
# Debian's build wants its default user before it reads qemu.conf; libvirt-daemon-system would make it.
cp /etc/passwd /etc/group "$d/"
grep -q ^libvirt-qemu: "$d/passwd" || echo 'libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin' >>"$d/passwd"
grep -q ^libvirt-qemu: "$d/group" || echo 'libvirt-qemu:x:64055:' >>"$d/group"
# A pid namespace of its own: libvirt waits for each QEMU that it asked to be gone, so process 1 must reap at once.
# shellcheck disable=SC2016  # for the inner bash to expand
exec unshare --mount --propagation private --pid --fork --kill-child --mount-proc bash -c '
    for pair in etc:/etc/libvirt run:/run/libvirt lib:/var/lib/libvirt cache:/var/cache/libvirt log:/var/log/libvirt \
        passwd:/etc/passwd group:/etc/group; do
        mount --bind "$0/${pair%%:*}" "${pair#*:}"
    done
    export LIBVIRT_DRIVER_DIR=$0/drivers
    libvirtd --config "$0/etc/libvirtd.conf" --pid-file "$0/libvirtd.pid" &
    wait' "$d"
