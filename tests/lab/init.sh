#!/bin/bash
# The first process of the guest. Its root is the host's file system, read-only; on top of it
# tests get one that they may write to and that ends with the guest. The host's $OUT (from the
# kernel's command line) is the only place that is really written to.
exec </dev/null
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/run
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmpfs /run
mkdir -p /run/modules/lib /run/upper
ln -s /usr/lib/uml/modules /run/modules/lib/modules
modprobe -d /run/modules overlay

# A view of the host's directory $1 at $2; what is written there stays in memory.
view() {
  local own
  own=$(mktemp -d /run/upper/XXXXXX)
  mkdir "$own/upper" "$own/work"
  mount -t overlay overlay "$2" -o "lowerdir=$1,upperdir=$own/upper,workdir=$own/work"
}

mkdir /run/root
mount -t tmpfs tmpfs /run/upper
view / /run/root
for each in proc sys dev run; do mount --rbind "/$each" "/run/root/$each"; done
mkdir -p /run/root/dev/shm
mount -t tmpfs tmpfs /run/root/dev/shm
mount -t tmpfs tmpfs /run/root/tmp
mkdir -p "/run/root/$OUT"
mount -t hostfs -o "$OUT" none "/run/root/$OUT"
# TREES, MODULES.
. "/run/root/$OUT/settings.sh"
# What lies below /tmp was just hidden.
for each in "${TREES[@]}"; do
  mkdir -p "/run/root/$each" "/run/trees/$each"
  mount -t hostfs -o "ro,$each" none "/run/trees/$each"
  view "/run/trees/$each" "/run/root/$each"
done
# Nothing is loaded when it is asked for.
modprobe -d /run/modules -a "${MODULES[@]}"
ip link set lo up
# Lines end as they do on the host.
stty -opost </dev/console
# The rest of the output is the program's. A panic is told all the same.
echo 0 >/proc/sys/kernel/printk
echo "$STARTS"
chroot /run/root /bin/bash "$OUT/command.sh"
echo $? >"/run/root/$OUT/status.part"
mv "/run/root/$OUT/status.part" "/run/root/$OUT/status"
poweroff -ff >/dev/null 2>&1
sleep 5
