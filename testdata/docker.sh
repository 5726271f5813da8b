#!/usr/bin/env bash
# Runs a page of the documentation beside a Docker daemon that is its alone, in
# namespaces of their own; the image busybox is made here, and nothing is fetched.
# containerd's client finds Docker's containerd. Needs root.
#
#   docker.sh PAGE
set -euo pipefail
if [ "$$" != 1 ]; then
  exec unshare --net --mount --pid --fork --kill-child --mount-proc bash "$0" "$1"
fi

dir=$TMPDIR/d # short: a socket's path is
export ROOTFS=$dir/rootfs DOCKER_HOST=unix://$dir/s CONTAINERD_ADDRESS=$dir/e/containerd/containerd.sock
mkdir -p "$ROOTFS"/{bin,etc,tmp,proc,dev,sys,run}
cp "$(command -v busybox)" "$ROOTFS/bin/busybox"
for command in sh sleep wget; do ln -s busybox "$ROOTFS/bin/$command"; done

dockerd --iptables=false --ip6tables=false --bridge=none --storage-driver=vfs \
  --data-root "$dir/data" --exec-root "$dir/e" -H "$DOCKER_HOST" -p "$dir/pid" > "$dir/log" 2>&1 &
for _ in $(seq 600); do docker version > /dev/null 2>&1 && break; sleep 0.05; done
docker version > /dev/null || { cat "$dir/log" >&2; exit 1; }
clean() {
  docker rm -f $(docker ps -aq) > /dev/null
  rmdir /sys/fs/cgroup{/*,}/sallyport/orders /sys/fs/cgroup{/*,}/sallyport 2> /dev/null || true
}
trap clean EXIT
tar -C "$ROOTFS" -c . | docker import -c 'CMD ["/bin/sh"]' - busybox > /dev/null
setsid --wait bash "$1" # which ends with its process group
