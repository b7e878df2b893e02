# shellcheck shell=sh
# What setup.sh puts in place on a GX device, and how it goes again. Read by it, with the package folder as the current one.
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
#   /run/dbus-smartbms.lock                  lock            itself, when setup.sh ends
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
our_line="\\[ -x $app/setup.sh \\] && $hook_command " # as a pattern
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
    remove_others
    installed || { remove_hook "$hook"; rm -f "$conf.takeover"; }
    refuse "$*"
}

no_write() { echo "cannot write to $1 (is it full?): $(df -h /data | tail -n 1)"; }

venus_version() { head -n 1 /opt/victronenergy/version; }
installed() { [ -L "$app" ] && [ -x "$app/setup.sh" ]; }
digest() { sha256sum "$1/SHA256SUMS" 2>/dev/null | cut -c 1-8; }
has_hook() { grep -qs "^$our_line" "$hook"; }

up_s() { cut -d . -f 1 /proc/uptime; }
time_for_calls() { calls_until=$(($(up_s) + calls_s)); }
time_for_calls

within() { # within TENTHS COMMAND...: wait until it is true; false when the time is up
    tenths=$1
    shift
    until "$@"; do
        [ "$tenths" -gt 0 ] || return 1
        tenths=$((tenths - 1))
        sleep 0.1
    done
}

# One at a time: a stick and somebody over SSH may come at once. The lock is in RAM, and counts while its owner lives.
lock=/run/$name.lock
take_lock() {
    ln -s $$ "$lock" 2>/dev/null && return
    kill -0 "$(readlink "$lock")" 2>/dev/null && return 1
    rm -f "$lock" # its owner is gone, or has just ended
    ln -s $$ "$lock" 2>/dev/null || [ ! -L "$lock" ] # where /run cannot be written it goes on without one
}
lock() {
    within 600 take_lock ||
        refuse "another setup.sh is at work (process $(readlink "$lock")). Try again when it has ended."
    trap 'rm -f "$lock"' EXIT
    trap 'exit 1' INT TERM
    trap '' HUP PIPE # a connection that is lost does not stop what it began
}

bounded() { # bounded COMMAND...: ended with all it started when the time is up; its status, or 124
    [ "$(up_s)" -lt "$calls_until" ] || return 124
    setsid "$@" &
    child=$!
    if ! within $((call_s * 10)) has_ended "$child"; then
        kill -9 -"$child" 2>/dev/null # and not waited for: it may be stuck in the kernel
        return 124
    fi
    wait "$child"
}
has_ended() { ! kill -0 "$1" 2>/dev/null; }

# Before anything is changed: why it cannot be. One line, nothing where it can.

too_old() {
    bounded python3 -I -S -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
    case $? in
    0 | 124) ;; # a device that is too busy to say is not too old
    *)
        echo "Venus OS $(venus_version) has $(python3 -V 2>&1 || echo no Python); dbus-smartbms needs Python 3.11, which is" \
            "in Venus OS v3.60 and later. Update it (Settings, General, Firmware), then install again."
        ;;
    esac
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
    elif [ "$(head -c 4 "$hook" 2>/dev/null | tail -c 3)" = ELF ] ||
        head -n 1 "$hook" 2>/dev/null | grep -q '^#!' && ! head -n 1 "$hook" |
        grep -Eq '^#! ?(/usr)?/bin/(env )?(ba|da|a)?sh( -[a-z]+)*$'; then
        echo "$hook is no shell script ($(head -n 1 "$hook" | tr -cd '[:print:]' | cut -c 1-60)), so no line can be put into it. Make it one that calls" \
            "what is there now, then install again."
    fi
    return 0
}

free_mb() { df -k /data | tail -n 1 | awk '{ print int($(NF - 2) / 1024) }'; }

no_room() {
    [ "$PWD" = "$(readlink -f "$app")" ] || [ "$(free_mb)" -ge "$needed_mb" ] ||
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
    [ "$PWD" = "$apps/$target" ] || rm -rf "${apps:?}/$target"
    mkdir -p "$apps" && case $PWD in
    "$apps/$target") ;; # the link to it was lost
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
    grep -qs "^[# ]*$our_line" "$1" || return 0
    new=$hook.$name
    if [ "$(cat "$1")" = "$(printf '#!/bin/sh\n%s' "$hook_line$whole")" ]; then
        rm -f "$(readlink -f "$1")"
    elif [ "$(tail -n +2 "$1")" = "$hook_line$no_newline" ]; then
        cp -p "$1" "$new" && printf %s "$(head -n 1 "$1")" >"$new" && sync && mv -f "$new" "$(readlink -f "$1")"
    else
        # Also where somebody made a comment of it. Counted, for sed does not say when the disk is full.
        cp -p "$1" "$new" && sed "\\|^[# ]*$our_line|d" "$1" >"$new" &&
            [ "$(($(wc -l <"$1") - $(grep -c "^[# ]*$our_line" "$1")))" -eq "$(wc -l <"$new")" ] &&
            sync && mv -f "$new" "$(readlink -f "$1")"
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
    now=$(our_ttys)
    # All of them before the first stop: that may take all the time there is.
    for tty in $now; do trigger change "$tty"; done
    for tty in $now; do
        bounded "$starter/stop-tty.sh" "$tty" >/dev/null 2>&1 ||
            tell "serial-starter did not let go of $tty; if no battery appears, reboot"
    done
    give_back "$now"
    echo "$now" >"$ram/ttys" 2>/dev/null
}

give_back() { # give_back TTYS: to serial-starter, what was taken from it and is not among these
    [ -e "$ram/ttys" ] || return 0
    while read -r tty; do
        case " $(echo "$1" | tr '\n' ' ') " in *" $tty "*) ;; *) trigger add "$tty" ;; esac
    done <"$ram/ttys"
}

remove_rule() {
    [ -e "$rule" ] || return 0
    now=$(our_ttys)
    rm -f "$rule"
    reload
    give_back "$now"
    for tty in $now; do trigger add "$tty"; done
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
    within 100 is_down "$old" || { svc -k "$old" "$old/log"; sleep 1; }
    ! svok "$old" 2>/dev/null || tell "the driver could not be stopped: reboot the GX"
    rm -rf "$old"
}
is_down() { ! svok "$1" && ! svok "$1/log"; }

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
