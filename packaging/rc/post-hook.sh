#!/bin/sh
# Venus calls this after it unpacked the archive on a stick: with "success", or "extraction-failed".
exec sh "$(dirname "$0")/setup.sh" stick-after "$1"
