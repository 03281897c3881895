#!/usr/bin/env bash
# A folder and a number in, that many hosts out, on this machine: each has its own network, processes, home folder,
# folder for temporary files, /tmp/ray, /dev/shm and DIR/own, and answers ssh. Everything else of the disk is shared.
#   hosts.sh up DIR N PYTHON_ENVIRONMENT     10.77.0.11 and on; private key DIR/key, user root
#   hosts.sh down DIR
# Needs root and Debian's iproute2, dropbear-bin, openssh-client, rsync.
set -euo pipefail
verb=$1
dir=$(mkdir -p "$2" && cd "$2" && pwd)
bridge=rayhosts0

host() { # inside the namespaces of one host: its private folders, then an ssh server in the foreground
    local home=$dir/$1/home
    mount --make-rprivate /
    mount -t proc proc /proc
    mkdir -p "$home/.ssh" "$dir/$1/ray" "$dir/$1/own/tmp" "$dir/own" /tmp/ray
    echo "export TMPDIR=$dir/own/tmp RAY_TMPDIR=/tmp" >"$home/.bashrc" # the path of a socket is short
    sed "s|^\(root:[^:]*:[^:]*:[^:]*:[^:]*\):[^:]*|\1:$home|" /etc/passwd >"$dir/$1/passwd"
    cp "$dir/key.pub" "$home/.ssh/authorized_keys"
    chmod 700 "$home" "$home/.ssh"
    chmod 600 "$home/.ssh/authorized_keys"
    ln -sfn "$2" "$home/venv"
    mount --bind "$dir/$1/passwd" /etc/passwd
    mount --bind "$dir/$1/own" "$dir/own"
    mount --bind "$dir/$1/ray" /tmp/ray
    mount -t tmpfs -o size=1g tmpfs /dev/shm
    hostname "$1"
    exec dropbear -F -E -r "$dir/hostkey" -p 22 -s
}

case $verb in
up)
    [ -f "$dir/key" ] || ssh-keygen -q -t ed25519 -N '' -f "$dir/key"
    [ -f "$dir/hostkey" ] || dropbearkey -t ed25519 -f "$dir/hostkey" >/dev/null
    ip link add $bridge type bridge
    ip addr add 10.77.0.1/24 dev $bridge
    ip link set $bridge up
    for i in $(seq 1 "$3"); do
        name=rayhost$i
        ip netns add "$name"
        ip link add "rh$i" type veth peer name eth0 netns "$name"
        ip link set "rh$i" master $bridge up
        ip -n "$name" addr add "10.77.0.$((10 + i))/24" dev eth0
        ip -n "$name" link set eth0 up
        ip -n "$name" link set lo up
        ip netns exec "$name" unshare --mount --pid --uts --fork --kill-child \
            "$0" host "$dir" "$name" "$4" >"$dir/$name.log" 2>&1 &
        echo $! >"$dir/$name.pid"
    done
    ;;
host)
    host "$3" "$4"
    ;;
down)
    for file in "$dir"/rayhost*.pid; do
        [ -f "$file" ] || continue
        kill -9 "$(cat "$file")" 2>/dev/null || true
        rm -f "$file"
    done
    sleep 0.5
    for name in $(ip netns list | awk '/^rayhost/ {print $1}'); do ip netns del "$name" || true; done
    ip link del $bridge 2>/dev/null || true
    ;;
esac
