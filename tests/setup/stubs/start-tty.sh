#!/bin/sh
# serial-starter is to look at a tty again.
echo "start-tty.sh $*" >>/rig/calls
. /usr/libexec/rig/behave start-tty.sh
mkdir -p /dev/serial-starter
ln -sf "../$1" "/dev/serial-starter/$1"
