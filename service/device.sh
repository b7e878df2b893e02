# shellcheck shell=sh
# What setup.sh does on a GX device: what the user types, and what Venus calls at each boot. Read by it after placed.sh,
# with the package folder as the current one.

start_driver() { # what RAM has forgotten; from the package folder in use
    mkdir -p "$ram" 2>/dev/null || tell "cannot write to /run"
    reason=$(first_reason too_old vendor_runs)
    if [ -n "$reason" ]; then
        echo "$reason" >"$ram/why" 2>/dev/null || :
        tell "$reason"
        return 0
    fi
    rm -f "$ram/why"
    quiet_vendor
    time_for_calls
    place_rule
    place_service
}

remove_unpacked() { # what an archive was unpacked to, if that is the current folder
    case $PWD in
    "$apps"/.*.new | */tmp/apps/.*.new) cd / && rm -rf "$OLDPWD" && rmdir "${OLDPWD%/*}" 2>/dev/null ;;
    esac
}

driver_pid() { svstat "$service" 2>/dev/null | sed -n 's/.*: up (pid \([0-9]*\)).*/\1/p'; }

install() {
    reason=$(first_reason too_old hook_unfit damaged no_room)
    if [ -n "$reason" ]; then
        remove_unpacked
        refuse "$reason"
    fi
    reason=$(vendor_beside)
    [ -z "$reason" ] || refuse "$reason"
    came_from=$PWD
    place_hook # it does nothing as long as there is no package
    place_package
    rm -f "$removed"
    [ "$came_from" = "$PWD" ] || ! cd "$came_from" 2>/dev/null || remove_unpacked
    cd "$app/." || refuse "cannot enter $app"
    old_pid=$(driver_pid)
    rm -f "$rule" # so that serial-starter is told again, whatever it has begun
    start_driver
    if svok "$service" 2>/dev/null; then
        [ -z "$changed" ] || svc -t "$service"
        svc -u "$service"
    fi
    remove_others
    # The archive for a stick, unpacked by hand.
    ! cmp -s /data/rc/SHA256SUMS SHA256SUMS || rm -rf /data/rc
    sync
    if [ -n "$changed" ]; then
        tell "dbus-smartbms $(cat version) is installed. It needs no configuration; what can be set is in" \
            "$app/docs/dbus-smartbms.ini, to be copied to $conf.ini."
    else
        tell "dbus-smartbms $(cat version) was installed already."
    fi
    [ "$(free_mb)" -ge "$gui_alarm_mb" ] ||
        tell "/data has only $(free_mb) MB free: the GX warns below $gui_alarm_mb."
}

takeover() { # install, and stop the vendor's driver for as long as this one is installed
    reason=$(first_reason too_old hook_unfit damaged no_room)
    [ -z "$reason" ] || refuse "$reason" # before the file is there that says what the user wants
    mkdir -p "${conf%/*}" && touch "$conf.takeover" && sync || refuse "cannot write $conf.takeover"
    install
    tell "The vendor's driver is stopped; uninstall gives it back."
}

wait_for_driver() { within 150 new_driver; } # svscan looks every five seconds
new_driver() {
    pid=$(driver_pid)
    [ -n "$pid" ] && { [ -z "$changed" ] || [ "$pid" != "$old_pid" ]; }
}

status() { # 0 where the driver runs
    installed || { tell "dbus-smartbms is not installed"; return 1; }
    time_for_calls
    running=0
    echo "dbus-smartbms $(cat "$app/version") in $apps/$(readlink "$app"), Venus OS $(venus_version)"
    if svok "$service" 2>/dev/null; then
        svstat "$service" "$service/log"
        svstat "$service" | grep -q ': up' || running=1
    else
        echo "the service does not run: $(cat "$ram/why" 2>/dev/null || echo "$service is not there or not supervised")"
        running=1
    fi
    reason=$(hook_unfit)
    if has_hook && [ -z "$reason" ]; then
        echo "started at boot by $hook"
    else
        echo "NOT started at boot: ${reason:-$hook has no line for it. Install again: sh $app/setup.sh install}"
    fi
    ttys=$(our_ttys)
    for tty in $ttys; do
        echo "cable: /dev/$tty $(property "$tty" ID_MODEL) $(property "$tty" ID_SERIAL_SHORT)$(
            [ ! -e "/dev/serial-starter/$tty" ] || echo ', but serial-starter has it too'
        )"
    done
    [ -n "$ttys" ] || echo "cable: none found"
    for one in $(vendor_services); do
        echo "the vendor's driver: $(svstat "$one")"
    done
    for folder in "$logs" "$ram/log"; do # the second where /data cannot be written
        [ ! -e "$folder/current" ] || tail -n 3 "$folder/current" | cut -d ' ' -f 2-
    done
    return "$running"
}

update() { # update [ARCHIVE | -]: from a file, or from what comes in
    archive=${1:-}
    came_in=/tmp/$name-update.tgz
    case $archive in
    '') refuse "update from what? setup.sh update ARCHIVE.tgz, or - for what comes in" ;;
    -)
        archive=$came_in
        trap 'rm -f "$lock" "$came_in"' EXIT
        cat >"$archive" || refuse "cannot write $archive"
        ;;
    /*) ;;
    *) archive=$here/$archive ;;
    esac
    [ -r "$archive" ] || refuse "there is no file $archive"
    folder=$(tar tzf "$archive" 2>/dev/null | sed -n "s,^\\(apps/\\.$name-[^/]*\\.new\\)/.*,\\1,p" | head -n 1)
    [ -n "$folder" ] || refuse "$archive is no archive of dbus-smartbms, or it is damaged"
    rm -rf "/tmp/$folder"
    tar xzf "$archive" -C /tmp "$folder" || { rm -rf "/tmp/$folder"; refuse "cannot unpack $archive to /tmp"; }
    rm -f "$came_in" "$lock"
    exec sh "/tmp/$folder/setup.sh" install
}

python_command() { # what the driver's own program does: doctor, config
    program=$PWD/dbus-smartbms
    case ${here:-/}/ in
    "$apps"/*) cd /data || cd / ;; # not into a package: a report lies where one is started
    *) cd "$here" || cd / ;;
    esac
    exec python3 -I -S -B "$program" "$@"
}

uninstall() { # uninstall [--purge]
    cd /
    [ ! -e "$app" ] || [ -L "$app" ] || refuse "$app was not made by this installer: nothing is removed"
    # From here on a power cut is met by the next boot, which goes on with it.
    mkdir -p "$apps"
    { echo "${1:-}" >"$removed"; } 2>/dev/null || { rm -rf "$logs"; echo "${1:-}" >"$removed"; } ||
        refuse "cannot write to /data, so nothing is removed: $(df -h /data | tail -n 1)"
    remove_service
    time_for_calls
    remove_rule
    free_vendor
    remove_rest "${1:-}"
    # All but the scripts, which a boot would need to go on. When the line in the hook is gone nothing calls them.
    for folder in "$apps/.$name-"*; do
        [ ! -e "$folder" ] || find "$folder" -type f ! -name '*.sh' -exec rm -f {} +
    done
    remove_hook "$hook.disabled"
    remove_hook "$hook"
    remove_package
    rm -f "$removed"
    rmdir "$apps" 2>/dev/null || :
    sync
    tell "dbus-smartbms is uninstalled."
    [ -n "${1:-}" ] || for kept in "$conf.ini" "$conf.state"; do
        [ ! -e "$kept" ] || tell "$kept is kept; uninstall --purge removes it too."
    done
    for stick in /media/*/venus-data-"$name"-*.tgz; do
        [ ! -e "$stick" ] || tell "$stick would install it again at the next boot: take the stick out."
    done
}

boot() { # called by the boot hook, before svscan and serial-starter
    mkdir -p "$ram" 2>/dev/null && touch "$ram/boot.log" && exec >"$ram/boot.log" 2>&1
    if [ -e "$removed" ]; then
        uninstall "$(cat "$removed")"
        return 0
    fi
    remove_others 2>/dev/null || :
    # Somebody ran Python there without -B: half a compiled file, after a power cut, would stop every start.
    find "$app/" -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null
    start_driver
}
