# Sets the stage in new namespaces and becomes PID 1 there.
# usage: sh stage.sh FOLDER IMAGE COVERS TTY:PTS ...
# FOLDER has root, data, pts, media, sys, rig; COVERS is a folder of files that cover some of the root's.
# Says "pid N", its own outside, on stdout.
set -e
exec 2>&4 4>&-
folder=$1 image=$2 covers=$3
shift 3
read -r pid rest </proc/self/stat
echo "pid $pid"
hostname einstein
root=$folder/root
mount --bind "$root" "$root"
mount --bind -o ro "$image" "$root/usr"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 dev "$root/dev"
mkdir "$root/dev/pts"
mount --bind "$folder/pts" "$root/dev/pts"
mount -t tmpfs -o mode=755 volatile "$root/var/volatile"
mkdir "$root/var/volatile/tmp" "$root/var/volatile/home" "$root/var/volatile/home/root"
chmod 1777 "$root/var/volatile/tmp"
[ -e "$folder/no-run" ] || mount -t tmpfs -o mode=755 run "$root/run"
mount -t tmpfs -o mode=755 service "$root/service"
mount --bind "$folder/data" "$root/data"
mount --bind "$folder/media" "$root/media"
mount --bind -o ro "$folder/sys" "$root/sys"
mount --bind "$folder/rig" "$root/rig"
(
    cd "$root/dev"
    umask 0
    mknod -m 666 null c 1 3
    mknod -m 666 zero c 1 5
    mknod -m 666 full c 1 7
    mknod -m 666 random c 1 8
    mknod -m 666 urandom c 1 9
    mknod -m 666 tty c 5 0
    ln -s pts/ptmx ptmx
    ln -s /proc/self/fd fd
    for cable; do
        touch "${cable%:*}"
        mount --bind "pts/${cable#*:}" "${cable%:*}"
    done
)
find "$covers" -type f -printf '%P\n' | while read -r path; do
    mount --bind "$covers/$path" "$root/$path"
done
mount -o remount,bind,ro "$root"
cd "$root"
pivot_root . mnt
exec env -i PATH=/sbin:/usr/sbin:/bin:/usr/bin HOME=/ TERM=linux \
    FAKETIME_DISABLE_SHM=1 chroot . /usr/libexec/rig/init
