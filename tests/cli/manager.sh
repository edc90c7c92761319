#!/usr/bin/env bash
# A real `systemd --user` in a mount namespace of its own, with one vault and one unit in it: for tests, run by root.
# Usage: unshare -m --propagation private manager.sh REPOSITORY UID DIRECTORY UNIT [LINE FOR A DROP-IN]
# Prints what the tests look for; a machine that was not booted by systemd does as well.
set -euo pipefail
root=$1 id=$2 home=$3/home unit=$4 more=${5:-}
python=$(dirname "$(dirname "$(readlink -f "$root/.venv/bin/python")")")

# /root is closed to others, and Python may lie in it.
mount -t tmpfs tmpfs /mnt
if [[ $python == /root/* ]]; then
    mkdir /mnt/python && mount --bind "$python" /mnt/python
    mount -t tmpfs -o mode=755 tmpfs /root
    mkdir -p "$python" && mount --bind /mnt/python "$python"
fi
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/systemd/system "/run/user/$id" /run/lock /run/mount
mknod /run/fuse c 10 229 && chmod 666 /run/fuse && mount --bind /run/fuse /dev/fuse
{ cat /etc/passwd; echo "trial:x:1777:1777::$home:/bin/sh"; } >/run/passwd && mount --bind /run/passwd /etc/passwd
chown "$id:$id" "/run/user/$id" && chmod 700 "/run/user/$id"
groups=()
for hierarchy in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup; do
    [ -e "$hierarchy/cgroup.procs" ] || continue
    group=$hierarchy/megafs-trial-$$
    mkdir "$group" && chown -R "$id:$id" "$group" && echo $$ >"$group/cgroup.procs"
    groups+=("$group")
done

as() {
    local become=()
    [ "$id" = 0 ] || become=(setpriv --reuid "$id" --regid "$id" --clear-groups)
    "${become[@]}" env -i PATH="$PATH" XDG_RUNTIME_DIR="/run/user/$id" HOME="$home" LANG=C.UTF-8 timeout 90 "$@"
}

mkdir -p "$home/.config/systemd/user/megafs@.service.d" "$home/state" "$home/one" "$home/two"
sed -e "s#/usr/local/bin/megafs#$root/.venv/bin/megafs#; s#/var/lib/megafs#$home/state#; s#/srv/#$home/#" \
    -e "s#/etc/megafs/%i.passphrase#$home/phrase#" "$unit" >"$home/.config/systemd/user/megafs@.service"
printf '[Service]\nRestart=no\n%s\n' "$more" >"$home/.config/systemd/user/megafs@.service.d/more.conf"
echo "correct horse" >"$home/phrase" && chmod 600 "$home/phrase"
mkdir -p "$home/.config/megafs"
[ "$id" = 0 ] || echo "MEGAFS_OPTIONS=--state-dir $home/state --passphrase-file $home/phrase" >"$home/.config/megafs/v.env"
chown -R "$id:$id" "$home"
as "$root/.venv/bin/megafs" create v --host "file://$home/one" --host "file://$home/two" \
    --state-dir "$home/state" --passphrase-file "$home/phrase" >/dev/null 2>&1

# Not through as(): its time limit would end the manager.
become=()
[ "$id" = 0 ] || become=(setpriv --reuid "$id" --regid "$id" --clear-groups)
"${become[@]}" env -i PATH="$PATH" XDG_RUNTIME_DIR="/run/user/$id" HOME="$home" \
    /lib/systemd/systemd --user --log-target=console >"$home/../manager.log" 2>&1 &
manager=$!
set +e
for _ in $(seq 100); do
    [ "$(as systemctl --user is-system-running 2>/dev/null)" = running ] && break
    sleep 0.1
done
as systemctl --user start megafs@v 2>"$home/../start.log"
echo "start $?"
pid=$(as systemctl --user show megafs@v -p MainPID --value)
[ "$pid" -gt 0 ] 2>/dev/null && grep -E "^(NoNewPrivs|Seccomp|CapBnd):" "/proc/$pid/status" | tr -d '\t'
if grep -q " $home/v fuse.megafs " /proc/self/mounts; then
    echo "visible yes"
    as sh -c "echo hello >'$home/v/file' && cat '$home/v/file'"
fi
as systemctl --user stop megafs@v
echo "stop $?"
grep -q " $home/v fuse" /proc/self/mounts || echo "unmounted"
as systemctl --user show megafs@v -p Result
kill "$manager" && wait "$manager" 2>/dev/null
for group in "${groups[@]}"; do
    echo $$ >"$(dirname "$group")/cgroup.procs" && find "$group" -depth -type d -exec rmdir {} \;
done
exit 0
