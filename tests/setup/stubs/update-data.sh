#!/bin/sh
# Sticks, as Venus treats them at boot.  Behaves like the script of that name in Victron's public recipes
# (meta-venus/recipes-core/initscripts/files): which names, in which order, which tar calls, which hooks.

take() { # take ARCHIVE: the hook before may refuse, the hook after is told how it went
    tmp=$(mktemp -d)
    tar xzf "$1" -C "$tmp" rc
    if [ -f "$tmp/rc/pre-hook.sh" ] && ! sh "$tmp/rc/pre-hook.sh"; then
        return # Venus leaves the temporary folder behind too
    fi
    if tar_without_rc "$1"; then how=success; else how=extraction-failed; fi
    [ ! -f "$tmp/rc/post-hook.sh" ] || sh "$tmp/rc/post-hook.sh" "$how"
    rm -rf "$tmp"
}

tar_without_rc() { # tar xzf ARCHIVE -C /data --exclude rc, which Venus's busybox can and Debian's cannot
    members=$(tar tzf "$1" | grep -v '^rc\(/\|$\)')
    # shellcheck disable=SC2086  one word for each member
    [ -z "$members" ] || tar xzf "$1" -C /data $members
}

look() { # true if there was an archive, taken or refused
    found=false
    for stick in /media/*; do
        for ending in tar.gz tgz; do
            for archive in "$stick"/venus-data-*."$ending" "$stick/venus-data.$ending"; do
                [ -f "$archive" ] || continue
                echo "Updating /data with $archive"
                take "$archive"
                found=true
            done
        done
    done
    $found
}

look_again() { # for sticks that are mounted late: once, when one comes or half a minute has passed
    udevadm settle
    tenths=300
    while [ "$tenths" -gt 0 ] && [ "$(ls /media)" = "$before" ]; do
        sleep 0.1
        tenths=$((tenths - 1))
    done
    look
}

before=$(ls /media)
if look; then exit 0; fi
look_again &
