#!/bin/sh
# packages.sh DIRECTORY: gets the log daemons that the benchmark compares with, from Debian, into a directory of ours.
#
# rsyslog and syslog-ng exclude each other as packages, and would become the machine's log service when installed. So
# their packages are only unpacked, once; the libraries they need are installed like any other (see also
# tests/support/deps.sh). Prints what it does; needs root or sudo only while a library is missing.
set -eu

libraries='libestr0 libfastjson4 liblognorm5 libivykis0 libnet1 libwrap0 libjson-c5 libglib2.0-0 libpcre3 libcap2
           libdbi1 libdbd-pgsql'
daemons='rsyslog rsyslog-pgsql syslog-ng-core syslog-ng-mod-sql'

directory=$1
say() { printf 'rivals: %s\n' "$*" >&2; }

missing=''
for package in $libraries; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || [ ! -e "$directory/complete" ] || exit 0

root=''
[ "$(id -u)" = 0 ] || root='sudo -n'
if [ -n "$missing" ]; then
    say "installing$missing"
    $root apt-get -q -o DPkg::Lock::Timeout=300 update || say 'apt-get update failed: going on with the package lists that are there'
    # shellcheck disable=SC2086 # a list of words
    $root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 install -y --no-install-recommends $missing </dev/null
fi

[ ! -e "$directory/complete" ] || exit 0
say "unpacking $daemons"
rm -rf "$directory"
mkdir -p "$directory/packages"
cd "$directory/packages"
# shellcheck disable=SC2086 # a list of words
apt-get -q download $daemons
for package in *.deb; do
    dpkg-deb -x "$package" "$directory"
done
touch "$directory/complete"
