#!/bin/sh
# Every option of the table in daemon/config_options.c is in README.md's configuration table and in
# systemd/tolld.conf.sample, with its default, and these two have no other. `make lint` calls it.
#
# README.md has one line per option, which begins "| `section.key` | `default` |" ("| – |" where the default is empty).
set -u

cd "$(dirname "$0")/../.." || exit 1
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT

# All three as sorted lines of "section.key=default".
sed -nE 's/^    \{"([a-z_]+)", "([a-z_]+)", "([^"]*)",.*/\1.\2=\3/p' daemon/config_options.c | sort >"$work/table"
awk '/^\[/ { section = substr($0, 2, length($0) - 2) }
     /^#[a-z_]+ =/ { sub(/ *= */, "="); sub(/ +$/, ""); print section "." substr($0, 2) }' \
    systemd/tolld.conf.sample | sort >"$work/sample"
[ ! -f README.md ] || awk -F ' *[|] *' '$2 ~ /^`[a-z_]+\.[a-z_]+`$/ { gsub(/`/, ""); print $2 "=" ($3 == "–" ? "" : $3) }' \
    README.md | sort >"$work/readme"

status=0
compare() { # compare FILE LIST
    [ -f "$2" ] || { echo "$1: is not there"; status=1; return; }
    comm -23 "$work/table" "$2" | sed "s|^|$1: missing, or with another default: |"
    comm -13 "$work/table" "$2" | sed "s|^|$1: not so in daemon/config_options.c: |"
    cmp -s "$work/table" "$2" || status=1
}
[ -s "$work/table" ] || { echo "daemon/config_options.c: no options found; has the layout of its rows changed?"; exit 1; }
compare systemd/tolld.conf.sample "$work/sample"
compare README.md "$work/readme"
exit $status
