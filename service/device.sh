# shellcheck shell=sh
# What setup.sh does on a GX device. Read by it, with the package folder as the current one.
# Plain sh as busybox has it, and no command that a GX lacks (there is no `timeout`, no `install`).
#
# All that is ever placed, by what, and by what it goes again:
#
#   /data/apps/dbus-smartbms, and .dbus-smartbms-VERSION-DIGEST beside it
#                                            place_package   remove_package
#   one line in /data/rcS.local              place_hook      remove_hook
#   /data/conf/dbus-smartbms.takeover        takeover        remove_rest
#   RAM, anew at each boot:
#   /run/udev/rules.d/zz-dbus-smartbms.rules place_rule      remove_rule
#   /service/dbus-smartbms                   place_service   remove_service
#   `down` in the vendor's services          quiet_vendor    free_vendor
#   /run/dbus-smartbms                       boot, driver    remove_rest
#   /data/log/dbus-smartbms                  multilog        remove_rest
#
# The configuration and the state (/data/conf/dbus-smartbms.ini, .state) are the user's and the driver's:
# nothing here makes them, and only `uninstall --purge` removes them.

# No `: >file`: where that cannot be written, a special built-in like `:` ends the whole shell.
set +e # each step says itself what its failure means
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
name=dbus-smartbms
apps=/data/apps
app=$apps/$name
next=$apps/.$name.next
removed=$apps/.$name.removed
hook=/data/rcS.local
ram=/run/$name
rules=/run/udev/rules.d
rule=$rules/zz-$name.rules
service=/service/$name
conf=/data/conf/$name
logs=/data/log/$name
vendor=/data/123SmartBMS-Venus
vendor_service=/service/123SmartBMS-Venus
starter=/opt/victronenergy/serial-starter
needed_mb=4
gui_alarm_mb=10

hook_command="$app/setup.sh boot"
# `|| :`: the hook it is put into may say `set -e`.
hook_line="[ -x $app/setup.sh ] && $hook_command || : # $name"
whole=", all of this file"
no_newline=", no newline before"

# What an outside program may take, and all of them together: a boot hook that hangs keeps the device from starting.
call_s=5
calls_s=15

tell() { # for whom asked, and in the files of the sticks
    printf '%s\n' "$*"
    for report in ${reports:-}; do
        printf '%s %s\n' "$(date '+%Y-%m-%d %H:%M')" "$*" 2>/dev/null >>"$report"
    done
}

refuse() { tell "setup.sh: $*" >&2; exit 1; }

give_up() { # in the middle of an installation: what there was before is as it was
    cd /
    installed || remove_hook "$hook"
    remove_others
    refuse "$*"
}

no_write() { echo "cannot write to $1 (is it full?): $(df -h /data | tail -n 1)"; }

on_gx() { [ -e /opt/victronenergy/version ]; }
venus_version() { head -n 1 /opt/victronenergy/version; }
installed() { [ -L "$app" ] && [ -x "$app/setup.sh" ]; }
digest() { sha256sum "$1/SHA256SUMS" 2>/dev/null | cut -c 1-8; }
has_hook() { grep -v '^[[:space:]]*#' "$hook" 2>/dev/null | grep -qF "$hook_command"; }

up_s() { cut -d . -f 1 /proc/uptime; }
time_for_calls() { calls_until=$(($(up_s) + calls_s)); }
time_for_calls

# One at a time: a stick and somebody over SSH may come at once. The lock is in RAM, and counts while its owner lives.
lock=/run/$name.lock
lock() {
    tenths=600
    until ln -s $$ "$lock" 2>/dev/null; do
        [ -L "$lock" ] || return 0 # /run cannot be written: no reason not to go on
        kill -0 "$(readlink "$lock")" 2>/dev/null || { rm -f "$lock"; continue; }
        [ "$tenths" -gt 0 ] || refuse "another setup.sh is at work (process $(readlink "$lock")). Try again when it has ended."
        tenths=$((tenths - 1))
        sleep 0.1
    done
    trap 'rm -f "$lock"' EXIT
    trap 'exit 1' HUP INT TERM
}

bounded() { # bounded COMMAND...: ended with all it started when the time is up; its status, or 124
    [ "$(up_s)" -lt "$calls_until" ] || return 124
    tenths=$((call_s * 10))
    setsid "$@" &
    child=$!
    while kill -0 "$child" 2>/dev/null; do
        if [ "$tenths" -le 0 ]; then
            kill -9 -"$child" 2>/dev/null || :
            wait "$child" 2>/dev/null || :
            return 124
        fi
        sleep 0.1
        tenths=$((tenths - 1))
    done
    wait "$child"
}

# Before anything is changed: why it cannot be. One line, nothing where it can.

too_old() {
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        echo "Venus OS $(venus_version) has $(python3 -V 2>&1 || echo no Python); dbus-smartbms needs Python 3.11, which is" \
            "in Venus OS v3.60 and later. Update it (Settings, General, Firmware), then install again."
}

vendor_beside() {
    if [ ! -e "$conf.takeover" ] && { [ -e "$vendor" ] || [ -e "$vendor_service" ]; }; then
        how="sh $PWD/setup.sh takeover"
        [ -z "${reports:-}" ] || how="put an empty file named $name-takeover beside the archive, and reboot"
        echo "the vendor's driver is there ($vendor), and two drivers must not read one cable. Either uninstall and" \
            "remove it (Settings, PackageManager) and install again, or let this one stop it for as long as this one" \
            "is installed: $how"
    fi
}

vendor_runs() { # what was only copied to the device, later than this driver, stops nothing at a boot
    [ ! -e "$vendor_service" ] || vendor_beside
}

hook_unfit() {
    if [ -e "$hook.disabled" ]; then
        echo "modifications are switched off on this GX ($hook.disabled): a driver would not be started at boot." \
            "Switch them on (Settings, General, Modification checks, All modifications enabled) or remove that file," \
            "then install again."
    elif [ -e "$hook" ] && [ ! -x "$hook" ]; then
        echo "$hook is not executable, so Venus runs nothing that is in it. Remove it, or if what is in it shall run:" \
            "chmod +x $hook. Then install again."
    elif head -n 1 "$hook" 2>/dev/null | grep -q '^#!' &&
        ! head -n 1 "$hook" | grep -Eq '^#! ?(/usr)?/bin/(env )?(ba|da|a)?sh( -[a-z]+)*$'; then
        echo "$hook is no shell script ($(head -n 1 "$hook")), so no line can be put into it. Make it one that calls" \
            "what is there now, then install again."
    fi
    return 0
}

free_mb() { df -k /data | tail -n 1 | awk '{ print int($(NF - 2) / 1024) }'; }

no_room() {
    [ "$(free_mb)" -ge "$needed_mb" ] ||
        echo "/data has $(free_mb) MB free, $needed_mb are needed. Remove what is not needed there, then install again."
}

damaged() { # what of the package in $PWD is not as it was built; nothing where all is
    [ -s SHA256SUMS ] || { echo "$PWD is no package (it has no SHA256SUMS). On a computer ./setup.sh build makes one"; return; }
    if ! sha256sum -c SHA256SUMS >/dev/null 2>&1 ||
        [ "$(find . -type f ! -path '*/__pycache__/*' | wc -l)" -ne $(($(wc -l <SHA256SUMS) + 1)) ]; then
        echo "the package in $PWD is damaged or incomplete. Copy the archive to the GX again."
    fi
}

first_reason() { # the first of these checks that has a reason
    for check; do
        reason=$($check)
        [ -z "$reason" ] || { echo "$reason"; return; }
    done
}

# The package folder

place_package() { # the package in $PWD becomes the one in use; sets $changed
    changed=
    in_use=$(readlink "$app" || :)
    target=.$name-$(cat version)-$(digest .)
    [ "$PWD" != "$apps/$in_use" ] || return 0
    case $in_use in
    "$target" | "$target-again")
        ! (cd "$apps/$in_use" && [ -z "$(damaged)" ]) || return 0
        [ "$in_use" != "$target" ] || target=$target-again # what is in use is damaged: beside it
        ;;
    esac
    [ ! -e "$app" ] || [ -L "$app" ] || give_up "$app was not made by this installer. Move it away, then install again."
    mkdir -p "$apps" && rm -rf "${apps:?}/$target" || give_up "$(no_write "$apps")"
    case $PWD in
    "$apps"/.*.new) mv "$PWD" "$apps/$target" ;;
    *) cp -R . "$apps/$target" ;;
    esac || give_up "$(no_write "$apps")"
    cd "$apps/$target" || give_up "cannot enter $apps/$target"
    chmod 755 setup.sh service/run service/log/run # some ways of copying lose that
    reason=$(damaged)
    [ -z "$reason" ] || give_up "$reason"
    # It must at least start on this Python before it takes the other's place.
    answer=$(python3 -I -S -B dbus-smartbms --version 2>&1 | tail -n 1)
    [ "$answer" = "$name $(cat version)" ] || give_up "the package does not start on this GX: $answer"
    sync # what the link leads to has to be on the disk before the link
    rm -rf "$next"
    ln -s "$target" "$next" || give_up "$(no_write "$apps")"
    # The one step that counts: a rename, which no power cut can halve. (`mv` would move the link into the folder that
    # the other one leads to.)
    python3 -I -S -c 'import os, sys; os.replace(*sys.argv[1:])' "$next" "$app" || give_up "cannot change $app"
    sync
    changed=yes
}

remove_others() { # every package but the one in use, and what a power cut left
    in_use=$(readlink "$app" || :)
    for folder in "$apps/.$name-"*; do
        [ ! -e "$folder" ] || [ "$folder" = "$apps/$in_use" ] || rm -rf "$folder"
    done
    rm -f "$next" "$hook.$name"
}

remove_package() {
    rm -f "$app"
    remove_others
    rmdir "$apps" 2>/dev/null || :
}

# The line in the boot hook. It comes first: a foreign hook may end with `exit 0`, and this one has to run before
# svscan and serial-starter. What is foreign comes back byte for byte.

place_hook() {
    ! has_hook || return 0
    new=$hook.$name
    rm -f "$new"
    if [ ! -e "$hook" ]; then
        printf '#!/bin/sh\n%s\n' "$hook_line$whole" >"$new" && chmod 755 "$new"
    elif ! head -n 1 "$hook" | grep -q '^#!'; then
        cp -p "$hook" "$new" && { printf '%s\n' "$hook_line" && cat "$hook"; } >"$new"
    elif [ "$(wc -l <"$hook")" -eq 0 ]; then
        cp -p "$hook" "$new" && printf '\n%s\n' "$hook_line$no_newline" >>"$new"
    else
        cp -p "$hook" "$new" && { head -n 1 "$hook" && printf '%s\n' "$hook_line" && tail -n +2 "$hook"; } >"$new"
    fi && sync && mv -f "$new" "$(readlink -f "$hook")" || give_up "$(no_write "$new")"
}

remove_hook() { # from the file named, which the GX may have renamed
    grep -qsF "$hook_command" "$1" || return 0
    new=$hook.$name
    if [ "$(cat "$1")" = "$(printf '#!/bin/sh\n%s' "$hook_line$whole")" ]; then
        rm -f "$1"
    elif [ "$(tail -n +2 "$1")" = "$hook_line$no_newline" ]; then
        cp -p "$1" "$new" && printf %s "$(head -n 1 "$1")" >"$new" && sync && mv -f "$new" "$(readlink -f "$1")"
    else
        cp -p "$1" "$new" && sed "\\|$hook_command|d" "$1" >"$new" && sync && mv -f "$new" "$(readlink -f "$1")"
    fi || { rm -f "$new"; tell "cannot change $1: remove the line with $hook_command from it"; }
}

# udev and serial-starter

chosen() { # the words of `devices` in the configuration, one a line; auto where there is none
    words=$(tr -d "\r\"'" 2>/dev/null <"$conf.ini" | sed -n -e 's/[[:space:]]*[#;].*//' -e 's/^[[:space:]]*//' \
        -e '/^\[[[:space:]]*[Ll][Ii][Nn][Kk][[:space:]]*\]/,/^\[/s/^[Dd][Ee][Vv][Ii][Cc][Ee][Ss][[:space:]]*[=:]//p' |
        tail -n 1 | tr , ' ')
    for word in ${words:-auto}; do
        case $word in
        *[!A-Za-z0-9_./:-]*) ;; # nothing that could mean something to udev
        *) echo "$word" ;;
        esac
    done
}

matches() { # one udev match a line, of what is left alone
    chosen | while read -r word; do
        case $word in
        auto) echo 'ENV{ID_MODEL}=="SmartBMSToUSB"' ;;
        /dev/*/*) echo "SYMLINK==\"${word#/dev/}\"" ;;
        /dev/*) echo "KERNEL==\"${word#/dev/}\"" ;;
        *) echo "ENV{ID_SERIAL_SHORT}==\"$word\"" ;;
        esac
    done
}

rule_text() {
    echo "# Written by dbus-smartbms at each boot: serial-starter shall not probe the BMS's cables."
    # Not ACTION=="add": a later change event would drop it.
    matches | sed 's/.*/ACTION!="remove", SUBSYSTEM=="tty", ENV{ID_BUS}=="usb", &, ENV{VE_SERVICE}="ignore"/'
}

property() { # property TTY KEY
    bounded udevadm info --query=property --name="$1" 2>/dev/null | sed -n "s/^$2=//p"
}

our_ttys() { # those the rule is about, now
    for path in /dev/ttyUSB* /dev/ttyACM*; do
        [ -e "$path" ] || continue
        tty=${path#/dev/}
        for word in $(chosen); do
            case $word in
            auto) [ "$(property "$tty" ID_MODEL)" = SmartBMSToUSB ] ;;
            /dev/*) [ "$path" = "$(readlink -f "$word")" ] ;;
            *) [ "$(property "$tty" ID_SERIAL_SHORT)" = "$word" ] ;;
            esac && { echo "$tty"; break; }
        done
    done
}

trigger() { # trigger ACTION TTY
    bounded udevadm trigger --action="$1" --subsystem-match=tty --sysname-match="$2" ||
        tell "udev did not answer about $2; if no battery appears, plug its cable out and in"
}

reload() { bounded udevadm control --reload || tell "udev did not read its rules again"; }

place_rule() { # and, where it is new, take the ttys from serial-starter
    [ "$(cat "$rule" 2>/dev/null)" != "$(rule_text)" ] || return 0
    mkdir "$rules" 2>/dev/null && touch "$ram/made-rules.d"
    if ! { mkdir -p "$rules" && rule_text >"$rule.new" && mv -f "$rule.new" "$rule"; }; then
        tell "cannot write $rule: serial-starter will probe the cable"
        return 0
    fi
    reload
    for tty in $(our_ttys); do
        bounded "$starter/stop-tty.sh" "$tty" >/dev/null 2>&1 ||
            tell "serial-starter did not let go of $tty; if no battery appears, reboot"
        trigger change "$tty"
    done
}

remove_rule() {
    [ -e "$rule" ] || return 0
    ttys=$(our_ttys)
    rm -f "$rule"
    reload
    for tty in $ttys; do trigger add "$tty"; done
}

# The service

place_service() {
    [ -d /service ] || { tell "there is no /service on this device, so nothing starts the driver"; return 0; }
    if [ ! -e "$service" ]; then
        new=/service/.$name # svscan does not look at names with a dot
        rm -rf "$new"
        mkdir -p "$new/log" && cp service/run "$new/run" && cp service/log/run "$new/log/run" && mv "$new" "$service" ||
            tell "cannot write to /service: the driver is not started"
        return 0
    fi
    for file in run log/run; do
        cmp -s "service/$file" "$service/$file" ||
            { cp "service/$file" "$service/$file.new" && mv -f "$service/$file.new" "$service/$file"; }
    done
}

remove_service() {
    [ -e "$service" ] || return 0
    old=/service/.$name
    rm -rf "$old"
    mv "$service" "$old"
    svc -dx "$old" "$old/log" 2>/dev/null || :
    tenths=100
    while svok "$old" || svok "$old/log"; do
        [ "$tenths" -gt 0 ] || { svc -k "$old" "$old/log"; sleep 1; break; }
        tenths=$((tenths - 1))
        sleep 0.1
    done
    rm -rf "$old"
}

# The vendor's driver. Its services lie in RAM and come anew with each boot; serial-starter starts its workers by udev's
# word, which our rule takes away.

vendor_services() { ls -d "$vendor_service" /service/smartbms-dbus.* 2>/dev/null; }

quiet_vendor() {
    [ -e "$conf.takeover" ] || return 0
    for one in $(vendor_services); do
        [ -e "$one/down" ] || touch "$one/down" "$one/.$name"
        svc -d "$one" 2>/dev/null || :
    done
}

free_vendor() {
    for one in $(vendor_services); do
        [ -e "$one/.$name" ] || continue
        rm -f "$one/down" "$one/.$name"
        svc -u "$one" 2>/dev/null || :
    done
}

remove_rest() {
    [ ! -e "$ram/made-rules.d" ] || rmdir "$rules" 2>/dev/null
    rm -rf "$ram" "$logs" "$conf.takeover" "$rule.new"
    [ "$1" != --purge ] || rm -f "$conf.ini" "$conf.state"
}

# What the user types, and what Venus calls

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
    place_rule
    place_service
}

driver_pid() { svstat "$service" 2>/dev/null | sed -n 's/.*: up (pid \([0-9]*\)).*/\1/p'; }

install() {
    reason=$(first_reason too_old hook_unfit damaged no_room)
    if [ -n "$reason" ]; then
        case $PWD in "$apps"/.*.new) cd / && rm -rf "$OLDPWD" && rmdir "$apps" 2>/dev/null ;; esac
        refuse "$reason"
    fi
    reason=$(vendor_beside)
    [ -z "$reason" ] || refuse "$reason"
    place_hook # it does nothing as long as there is no package
    place_package
    rm -f "$removed"
    cd "$app/." || refuse "cannot enter $app"
    old_pid=$(driver_pid)
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

wait_for_driver() { # the new one's process; svscan looks every five seconds
    tenths=150
    while [ "$tenths" -gt 0 ]; do
        pid=$(driver_pid)
        if [ -n "$pid" ] && { [ -z "$changed" ] || [ "$pid" != "$old_pid" ]; }; then return 0; fi
        tenths=$((tenths - 1))
        sleep 0.1
    done
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
    if has_hook; then
        echo "started at boot by $hook"
    else
        reason=$(hook_unfit)
        echo "NOT started at boot: ${reason:-$hook has no line for it. Install again: sh $app/setup.sh install}"
    fi
    for tty in $(our_ttys); do
        echo "cable: /dev/$tty $(property "$tty" ID_MODEL) $(property "$tty" ID_SERIAL_SHORT)$(
            [ ! -e "/dev/serial-starter/$tty" ] || echo ', but serial-starter has it too'
        )"
    done
    [ -n "$(our_ttys)" ] || echo "cable: none found"
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
    reason=$(no_room)
    [ -z "$reason" ] || refuse "$reason"
    rm -rf "/data/$folder"
    tar xzf "$archive" -C /data "$folder" || { rm -rf "/data/$folder"; refuse "cannot unpack $archive to /data"; }
    rm -f "$came_in" "$lock"
    exec sh "/data/$folder/setup.sh" install
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
