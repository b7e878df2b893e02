# shellcheck shell=sh
# What setup.sh does for an archive on a USB stick or SD card. Read by it after placed.sh and device.sh.
#
# At each boot for as long as the stick is in, Venus unpacks rc/ of the archive to RAM and calls rc/pre-hook.sh; where
# that ended with 0 it unpacks the rest to /data and calls rc/post-hook.sh. (update-data.sh in meta-victronenergy)

find_sticks() { # what happens is told on the stick too, for those who have no other way to read it
    reports=
    for archive in /media/*/venus-data-"$name"-*.tgz; do
        [ -e "$archive" ] || continue
        report=${archive%/*}/$name-install.txt
        [ ! -e "$report" ] || [ "$(wc -c <"$report")" -lt 20000 ] || rm -f "$report"
        reports="$reports $report"
    done
}

is_older() { # is_older VERSION THAN: 1.0.0rc1 is older than 1.0.0
    awk -v a="$1" -v b="$2" '
        function parts(version, out) { split(version, out, "."); out["rest"] = version; sub(/^[0-9.]+/, "", out["rest"]) }
        BEGIN {
            parts(a, x); parts(b, y)
            for (i = 1; i <= 4; i++) if (x[i] + 0 != y[i] + 0) exit !(x[i] + 0 < y[i] + 0)
            if (x["rest"] == y["rest"]) exit 1
            if (x["rest"] == "" || y["rest"] == "") exit x["rest"] == ""
            exit !(x["rest"] < y["rest"])
        }'
}

wants_takeover() { ls /media/*/"$name"-takeover* >/dev/null 2>&1; }

stick_before() { # not 0: Venus shall leave the stick alone
    find_sticks
    rm -rf "$apps/.$name-"*.new # of an unpacking that was cut
    if installed && [ ! -e "$removed" ]; then
        if is_older "$(cat version)" "$(cat "$app/version")"; then
            refuse "$(cat version) on the stick is older than $(cat "$app/version") on this GX: nothing is changed"
        fi
        if has_hook && cmp -s SHA256SUMS "$app/SHA256SUMS" && (cd "$app/." && [ -z "$(damaged)" ]); then
            refuse "dbus-smartbms $(cat version) is installed already; the stick can be taken out"
        fi
    fi
    reason=$(first_reason too_old hook_unfit no_room)
    wants_takeover || reason=${reason:-$(vendor_beside)}
    [ -z "$reason" ] || refuse "$reason"
}

stick_after() { # stick_after success | extraction-failed
    find_sticks
    staging=$apps/.$name-$(cat version).new
    if [ "${1:-}" != success ] || ! cmp -s SHA256SUMS "$staging/SHA256SUMS"; then
        rm -rf "$staging"
        sync
        refuse "the stick could not be unpacked to /data: $(free_mb) MB are free there; or the archive on it is damaged"
    fi
    cd "$staging" || refuse "cannot enter $staging"
    if wants_takeover; then takeover; else install; fi
}
