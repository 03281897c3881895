#!/bin/bash
# A command in, `make demo` without one; out its table, where little is allowed: an unprivileged user, a HOME that is
# read-only, 2 GB of memory, one CPU, and a TMPDIR longer than a socket's path. As root:
#   tests/cluster/small_machine.sh
#   tests/cluster/small_machine.sh .venv/bin/ray-synth run sweeps/digits.yaml --smoke
# It works on a copy of this folder, in namespaces and a cgroup of its own, and removes all of them.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "small_machine.sh needs root, to give it away" >&2; exit 2; }
repository=$(cd "$(dirname "$0")/../.." && pwd)
[ $# -gt 0 ] || set -- make demo
user=65534

if [ "${SMALL_MACHINE:-}" = "" ]; then  # outside: a place, a cgroup, namespaces
    place=$(mktemp -d /tmp/small-XXXXXX)
    memory=/sys/fs/cgroup/memory/$(basename "$place")
    [ -e /sys/fs/cgroup/cgroup.controllers ] && memory=/sys/fs/cgroup/$(basename "$place")
    end() {
        for _ in 1 2 3; do rmdir "$memory" 2>/dev/null && break; [ -d "$memory" ] || break; sleep 1; done
        rm -rf "$place"
    }
    trap end EXIT
    if mkdir "$memory" 2>/dev/null && { echo 2G >"$memory/memory.max" || echo 2G >"$memory/memory.limit_in_bytes"; } 2>/dev/null
    then
        echo "2 GB: $memory"
    else
        echo "no limit of memory can be set on this machine"
        memory=
    fi
    export SMALL_MACHINE=$place
    status=0
    (
        if [ -n "$memory" ]; then echo "$BASHPID" >"$memory/cgroup.procs"; fi
        exec unshare --mount --pid --fork --kill-child --mount-proc "$0" "$@"
    ) || status=$?
    echo "left in $place/tmp: $(find "$place/tmp" -mindepth 2 -printf '%f ' || true); peak $(cat "$memory"/memory.{peak,max_usage_in_bytes} 2>/dev/null || true) bytes"
    exit "$status"
fi

place=$SMALL_MACHINE
long=$place/tmp/$(printf 'long%.0s' {1..30})
mkdir -p "$long" "$place/copy"
git -C "$repository" ls-files -z | (cd "$repository" && xargs -0 cp --parents -t "$place/copy")
ln -s "$(readlink -f "$repository/.venv")" "$place/copy/.venv"
touch -d 2000-01-01 "$place/copy/pyproject.toml"  # nothing is installed anew
chown -R $user:$user "$place"
# Python itself may lie in a home folder that nobody else enters: HOME is empty and read-only, but for that.
python=$("$repository/.venv/bin/python" -c 'import sys; print(sys.base_prefix)')
mkdir "$place/python"
mount --bind "$python" "$place/python"
mount -t tmpfs -o mode=755 none "$HOME"
case $python in "$HOME"/*) mkdir -p "$python" && mount --bind "$place/python" "$python" ;; esac
mount -o remount,ro "$HOME"
cpu=$(taskset -cp $$ | sed 's/.*: //; s/[-,].*//')
cd "$place/copy"
exec taskset -c "$cpu" setpriv --reuid $user --regid $user --clear-groups --no-new-privs \
    env -u SMALL_MACHINE HOME="$HOME" TMPDIR="$long" PYTHONPATH="$place/copy" "$@"
