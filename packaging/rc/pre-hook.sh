#!/bin/sh
# Venus calls this before it unpacks the archive on a stick to /data; what is not 0 leaves the stick alone.
exec sh "$(dirname "$0")/setup.sh" stick-before
