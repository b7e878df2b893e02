#!/bin/sh
# serial-starter is to leave a tty alone: what it runs on it ends.
echo "stop-tty.sh $*" >>/rig/calls
. /usr/libexec/rig/behave stop-tty.sh
rm -f "/dev/serial-starter/$1"
probe=/run/serial-starter/$1
[ ! -e "$probe" ] || kill "$(cat "$probe")"
rm -f "$probe"
