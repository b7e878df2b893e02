#!/bin/sh
# Sets everything up and runs it. On a desk: `./setup.sh demo`, `./setup.sh test`, all it makes goes into .venv beside
# this file, archives into dist. On a GX device: `setup.sh install` and the others below.
# Plain sh.
set -eu

here=$PWD
cd "$(dirname "$(readlink -f "$0")")"
venv=$PWD/.venv
oldest="3.11"

say() { printf '%s\n' "$*" >&2; }
die() { say "setup.sh: $*"; exit 1; }
on_gx() { [ -e /opt/victronenergy/version ]; }
unknown() { say "setup.sh: $command does not know '$1'; see setup.sh --help"; exit 2; }

usage() {
    cat <<'TEXT'
usage: ./setup.sh demo [OPTIONS]   a simulated pack, the driver and a D-Bus of its own, live in this terminal
       ./setup.sh test             linters, type checks, all tests and their coverage
       ./setup.sh test OPTIONS     pytest alone, with these options
       ./setup.sh run [OPTIONS]    the driver itself, as dbus-smartbms run
       ./setup.sh bench [OPTIONS]  latency, CPU, memory
       ./setup.sh build            the archives for a GX device, in dist

on a GX device (Venus OS v3.60 or later):
       setup.sh install            or install again: whatever is missing is put in place
       setup.sh takeover           install beside the vendor's driver, which is stopped until uninstall
       setup.sh status             does it run, is it started at boot, which cables
       setup.sh update ARCHIVE     another version (`-`: the archive comes in)
       setup.sh doctor [OPTIONS]   what is wrong and what to do; --report makes a file to attach to a question
       setup.sh config check FILE  every mistake in a configuration, with its line
       setup.sh uninstall          all but configuration and state; with --purge those too

examples:
  ./setup.sh demo
  ./setup.sh demo --cells 32 --seconds 60
  ./setup.sh test
  ./setup.sh test -k limits
TEXT
}

# What is missing is installed when that is possible, else one line says what to type.
apt_install() {
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        say "installing: $*"
        log=$(mktemp)
        if { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"; } \
            >"$log" 2>&1
        then rm -f "$log"; return 0; fi
        tail -n 3 "$log" >&2
        rm -f "$log"
    fi
    return 1
}

need() { # need COMMAND PACKAGE
    command -v "$1" >/dev/null 2>&1 || apt_install "$2" ||
        die "$1 is missing; install it with: sudo apt-get install $2"
}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    for python in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
        if command -v "$python" >/dev/null 2>&1 && new_enough "$python"; then
            return 0
        fi
    done
    return 1
}

# A virtual environment with what the driver needs, as pyproject.toml has it (and with "test", what the
# tests need). Nothing is built: the driver runs from this folder. Done again only when
# pyproject.toml changed or the interpreter went.
make_venv() {
    extra=${1:-}
    find_python || { apt_install python3 python3-venv && find_python; } ||
        die "Python $oldest or later is needed; install it with: sudo apt-get install python3 python3-venv"
    if [ ! -x "$venv/bin/python" ] || ! new_enough "$venv/bin/python"; then
        rm -rf "$venv"
        if ! "$python" -m venv "$venv" >/dev/null 2>&1; then
            rm -rf "$venv"
            version=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
            { apt_install "$version" || apt_install python3-venv; } && "$python" -m venv "$venv" >/dev/null 2>&1 || {
                rm -rf "$venv"
                die "the venv module is missing; install it with: sudo apt-get install python3-venv"
            }
        fi
    fi
    stamp="$venv/installed-$extra"
    if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
        say "installing the Python packages ..."
        # One word for each package:
        # shellcheck disable=SC2016,SC2046
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check $("$venv/bin/python" -c '
import sys, tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
print(*project["dependencies"], *project["optional-dependencies"].get(sys.argv[1], []), sep="\n")' "$extra") ||
            die "pip could not install the Python packages (no network?); try again with: ./setup.sh $command"
        touch "$stamp"
    fi
}

[ $# -gt 0 ] || { usage >&2; exit 2; }
command=$1
shift
case $command in
install | uninstall | takeover | status | update | doctor | config | boot | stick-before | stick-after)
    # shellcheck source=service/placed.sh
    . service/placed.sh
    # shellcheck source=service/device.sh
    . service/device.sh
    on_gx || die "this is no GX device (there is no /opt/victronenergy/version); see ./setup.sh --help"
    case $command-$# in
    doctor-* | config-* | install-0 | takeover-0 | status-0 | boot-0 | update-[01] | uninstall-0 | stick-*) ;;
    uninstall-1) [ "$1" = --purge ] || unknown "$1" ;;
    *) unknown "$1" ;;
    esac
    ;;
demo | run | bench | build | test)
    ! on_gx || die "$command is for a computer; on a GX see setup.sh --help"
    [ -e pyproject.toml ] || die "this folder came out of an archive, for a GX; $command needs a clone of the project"
    [ -w . ] || die "cannot write to $PWD; copy or clone it to a folder of your own"
    ;;
esac
case $command in
install | takeover)
    lock
    "$command"
    pidof svscan >/dev/null || exit 0 # the device is still booting, and starts it then
    wait_for_driver
    status
    exit
    ;;
doctor | config)
    python_command "$command" "$@"
    ;;
status | boot)
    "$command"
    exit
    ;;
uninstall | update)
    lock
    "$command" "$@"
    exit
    ;;
stick-before | stick-after)
    # shellcheck source=service/stick.sh
    . service/stick.sh
    lock
    "$(echo "$command" | tr - _)" "$@"
    exit
    ;;
esac

case $command in
demo)
    need dbus-daemon dbus
    make_venv
    exec "$venv/bin/python" dbus-smartbms demo "$@"
    ;;
run)
    make_venv
    program=$PWD/dbus-smartbms
    cd "$here" # paths among the options are the caller's
    exec "$venv/bin/python" "$program" run "$@"
    ;;
bench)
    need dbus-daemon dbus
    make_venv test
    exec "$venv/bin/python" bench/bench.py "$@"
    ;;
build)
    make_venv
    "$venv/bin/python" packaging/build.py "$@"
    say "made in $PWD/dist; how to install them: docs/install.md"
    ;;
test)
    need dbus-daemon dbus
    make_venv test
    export PYTHONASYNCIODEBUG=1
    [ $# -eq 0 ] || exec "$venv/bin/python" -m pytest "$@"
    "$venv/bin/ruff" check .
    "$venv/bin/ruff" format --check .
    "$venv/bin/mypy"
    # A && B || C is meant as it says: C where A or B failed.
    "$venv/bin/shellcheck" --external-sources --check-sourced --exclude=SC2015 \
        setup.sh service/run service/log/run packaging/rc/*.sh .ci/run .ci/arm-python
    "$venv/bin/coverage" erase
    # In two halves side by side: the installer's tests mostly wait for a device that boots. Shown after the others.
    "$venv/bin/coverage" run -m pytest tests/setup tests/driver/test_mutants.py >"$venv/tests-beside.log" 2>&1 &
    beside=$!
    failed=
    "$venv/bin/coverage" run -m pytest --ignore=tests/setup --ignore=tests/driver/test_mutants.py || failed=yes
    wait "$beside" || failed=yes
    cat "$venv/tests-beside.log"
    [ -z "$failed" ] || exit 1
    "$venv/bin/coverage" combine --quiet
    "$venv/bin/coverage" report --fail-under=95
    # Branches are complete where a mistake costs a battery: the decoder, the mirror, the limits.
    "$venv/bin/coverage" report --fail-under=100 \
        --include='protocol/smartbms_protocol/*,*/limits.py,*/voltage.py,*/sag.py,*/mirror.py,*/manuals.py,*/ratings.py,*/rules.py,*/stages.py,*/parallel.py,*/shares.py'
    ;;
-h | --help | help)
    usage
    ;;
*)
    say "setup.sh: unknown command '$command'"
    usage >&2
    exit 2
    ;;
esac
