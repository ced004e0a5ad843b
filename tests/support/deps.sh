#!/bin/sh
# Makes sure that the Debian packages toll is built and tested with are there. This list is the only one.
#
# Asks dpkg first: where nothing is missing it needs no network, no root, and takes a blink. It upgrades nothing, and
# no PostgreSQL cluster of the system's is created or started: demo and tests make their own.
set -eu

build='gcc libc6-dev make pkg-config libuv1-dev libpq-dev libmsgpack-dev uuid-dev libinih-dev libsystemd-dev uthash-dev'
test='check libjansson-dev postgresql-15 postgresql-client-15 python3 python3-pytest python3-msgpack python3-psycopg2
      util-linux procps systemd strace libfaketime mandoc'
lint='clang libclang-rt-14-dev clang-tidy clang-format cppcheck shellcheck pyflakes3 git'

say() { printf 'deps: %s\n' "$*" >&2; }
one_line() { printf '%s' "$*" | tr -s ' \n' '  '; }

missing() {
    # shellcheck disable=SC2086 # the lists are words
    installed=$(dpkg-query -W -f '${Package}=${db:Status-Status} ' $build $test $lint 2>/dev/null || true)
    for package in $build $test $lint; do
        case " $installed" in
        *" $package=installed "*) ;;
        *) printf '%s\n' "$package" ;;
        esac
    done
}

give_up() {
    say "$1; please install what these Debian 12 packages hold, and try again:"
    say "  $(one_line "$2")"
    exit 1
}

command -v dpkg-query >/dev/null 2>&1 || {
    # Not Debian. Whoever has the tools in some other way may go on.
    for tool in cc pkg-config psql python3; do
        command -v "$tool" >/dev/null 2>&1 || give_up "this is no Debian system and it has no $tool" "$build $test $lint"
    done
    say "this is no Debian system: going on with what is there"
    exit 0
}

needed=$(missing)
[ -n "$needed" ] || exit 0

if [ "$(id -u)" = 0 ]; then
    root=''
elif command -v sudo >/dev/null 2>&1 && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
    root='sudo'
else
    give_up 'packages are missing, and I am neither root nor allowed to use sudo' "$needed"
fi

apt_get() { $root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 "$@" </dev/null; }

# postgresql-15 would create and start a cluster "main" on installation. A drop-in keeps it from that, for this run only.
dropin=/etc/postgresql-common/createcluster.d/toll-no-main-cluster.conf
made_dropin=''
made_directory=''
restore() {
    [ -z "$made_dropin" ] || $root rm -f "$dropin"
    [ -z "$made_directory" ] || $root rmdir -p --ignore-fail-on-non-empty "${dropin%/*}"
}
trap restore EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
case " $(one_line "$needed") " in
*' postgresql-15 '*)
    made_dropin=yes
    [ -d "${dropin%/*}" ] || made_directory=yes
    $root mkdir -p "${dropin%/*}"
    echo 'create_main_cluster = false' | $root tee "$dropin" >/dev/null
    ;;
esac

say "installing with apt-get: $(one_line "$needed")"
apt_get update || say 'apt-get update failed: going on with the package lists that are there'
# shellcheck disable=SC2086 # a list of words
apt_get install -y --no-install-recommends $needed || give_up 'apt-get install failed' "$needed"
say 'done'
