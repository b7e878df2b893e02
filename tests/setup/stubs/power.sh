# Power for one boot of a machine: outside of it, with this computer's own commands.
# usage: sh power.sh PID FOLDER IMAGE COVERS TTY:PTS ... <lifeline
# PID has the mount namespace with /data and the ptys.  When the lifeline (stdin) ends, so does the power.
holder=$1
shift
# What unshare itself says of a machine that was switched off is no part of the machine's console.
nsenter --mount --target "$holder" -- \
    unshare --mount --pid --net --uts --ipc --fork --kill-child -- sh "${0%/*}/stage.sh" "$@" \
    </dev/null 4>&2 2>/dev/null &
cat >/dev/null
kill -9 $! 2>/dev/null
wait
