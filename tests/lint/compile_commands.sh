#!/bin/sh
# compile_commands.sh COMMAND SOURCE…: prints the JSON that editors, clang-tidy and cppcheck read: how each source is
# compiled. `make compile_commands.json` calls it. Paths and the command must have no control characters.
set -eu

json() { printf '%s' "$1" | sed 's/[\\"]/\\&/g'; }

command=$(json "$1")
directory=$(json "$PWD")
shift
separator='['
for source in "$@"; do
    source=$(json "$source")
    printf '%s\n  {"directory": "%s", "file": "%s", "command": "%s -c %s"}' "$separator" "$directory" "$source" "$command" "$source"
    separator=,
done
[ "$separator" = , ] || printf '['
printf '\n]\n'
