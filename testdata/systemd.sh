#!/usr/bin/env bash
# Runs a page of the documentation on a machine of its own: systemd, in namespaces and
# a cgroup of its own, on this machine's files. What the page changes is in memory and
# gone afterwards, but for $TMPDIR and the folder it runs in. Needs root.
#
#   systemd.sh PAGE
set -euo pipefail
group=sallyport-page-$$
groups() { ls -d /sys/fs/cgroup/*/cgroup.procs /sys/fs/cgroup/cgroup.procs 2> /dev/null | xargs -n 1 dirname; }

# The machine, in its namespaces: an overlay over the files of this one, and systemd.
if [ "${1:-}" = boot ]; then
  mount --make-rprivate /
  top=/mnt root=/mnt/root
  mount -t tmpfs tmpfs $top
  mkdir $root $top/changes $top/work
  mount -t overlay overlay -o lowerdir=/,upperdir=$top/changes,workdir=$top/work $root
  mount --rbind /dev "$root/dev"
  mount -t proc proc "$root/proc"
  mount -t sysfs sysfs "$root/sys"
  mount -t tmpfs tmpfs "$root/run"
  for keep in "$TMPDIR" "$PWD"; do mount --bind "$keep" "$root$keep"; done
  # no service of this machine's
  rm -rf "$root"/etc/systemd/system/*.wants "$root"/lib/systemd/system/{multi-user,sysinit}.target.wants
  cd $root
  pivot_root . .
  umount -l .
  mount --make-rshared /
  exec env -i container=page /lib/systemd/systemd --system --unit=basic.target
fi

for dir in $(groups); do
  mkdir "$dir/$group"
done
# a shell that moves there first, so that the new cgroup namespace begins there
bash -c 'for dir in '"$(groups | tr '\n' ' ')"'; do echo $$ > "$dir/'"$group"'/cgroup.procs"; done
  exec unshare --cgroup --mount --pid --fork --kill-child --uts --ipc --net bash "$0" boot' "$0" > "$TMPDIR/boot.log" 2>&1 &
outer=$!
clean() {
  kill -KILL $outer 2> /dev/null || true
  wait $outer 2> /dev/null || true
  for _ in $(seq 100); do # until the last of its processes is gone
    for dir in $(groups); do find "$dir/$group" -depth -type d -exec rmdir {} \; 2> /dev/null || true; done
    [ "$(groups | sed "s|\$|/$group|" | xargs ls -d 2> /dev/null)" ] || break
    sleep 0.05
  done
}
trap clean EXIT
for _ in $(seq 600); do
  systemd=$(pgrep -P $outer -f 'systemd --system' || true)
  [ "$systemd" ] && nsenter -t "$systemd" -a -r -w true 2> /dev/null && nsenter -t "$systemd" -a -r systemctl is-system-running > /dev/null 2>&1 && break
  sleep 0.05
done
[ "$systemd" ] || { cat "$TMPDIR/boot.log" >&2; exit 1; }
nsenter -t "$systemd" -a -r --wd="$PWD" setsid --wait bash "$1" # which ends with its process group
