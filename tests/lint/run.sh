#!/bin/sh
# Everything that finds fault without running the programs. `make lint` calls it, with compile_commands.json made. A step that
# fails does not keep the later ones from running; the exit status is 0 only when all were content.
#
# ruff is used where it is installed (Debian 12 has none); every other tool must be there.
set -u

cd "$(dirname "$0")/../.." || exit 1
output=$(mktemp) || exit 1
trap 'rm -f "$output"' EXIT
failures=0

# The files of the project: what git knows or would take; without git, what is there.
files() {
    if git rev-parse --git-dir >/dev/null 2>&1; then
        git ls-files -co --exclude-standard -- "$@"
    else
        for each in "$@"; do find . -name build -prune -o -type f -name "$each" -print; done
    fi | sort -u | while read -r each; do [ ! -f "$each" ] || printf '%s\n' "$each"; done
}

step() { # step NAME COMMAND…: runs it; its output is shown only when it fails
    name=$1
    shift
    began=$(date +%s)
    if "$@" >"$output" 2>&1; then
        printf 'ok     %-20s %4d s\n' "$name" $(($(date +%s) - began))
    else
        printf 'FAILED %s\n' "$name"
        sed 's/^/       /' "$output"
        failures=$((failures + 1))
    fi
}

# One file at a time: clang-tidy 14 mistakes va_list for uninitialized when it is given several.
tidy() {
    # shellcheck disable=SC2016 # the inner shell expands it
    sed -n 's/.*"file": "\([^"]*\)".*/\1/p' compile_commands.json | xargs -P "$(nproc)" -n 1 sh -c '
        said=$(clang-tidy -p . --quiet --config-file=.clang-tidy "$0" 2>&1) || {
            printf "%s\n" "$said" | grep -vE "^[0-9]+ warnings? (generated|treated)"
            exit 1
        }'
}

format() { files '*.c' '*.h' | xargs -r clang-format --dry-run -Werror; }

# uninitvar is left to clang's analyzer: cppcheck 2.10 takes snprintf and loops that fill an array for no initialization.
# The encoder finds a frame's members by offset from a table, which is the cast complained of.
check_c() {
    cppcheck --quiet --error-exitcode=1 --inline-suppr --std=c11 -j "$(nproc)" --project=compile_commands.json \
        --enable=warning,performance,portability --suppress=missingInclude --suppress=missingIncludeSystem \
        --suppress=normalCheckLevelMaxBranches --suppress=checkersReport --suppress=unknownMacro \
        --suppress=uninitvar --suppress=legacyUninitvar '--suppress=invalidPointerCast:*proto/encode.c'
}

shell() { { files '*.sh'; files .ci/run; } | xargs -r shellcheck; }
python() { files '*.py' | xargs -r pyflakes3; }
newer_python() { files '*.py' | xargs -r ruff check; }

step clang-format format
step clang-tidy tidy
step cppcheck check_c
step layers sh tests/lint/layers.sh
step words sh tests/lint/words.sh
step shellcheck shell
step pyflakes python
command -v ruff >/dev/null && step ruff newer_python
[ ! -e tests/support/check_options.sh ] || step options sh tests/support/check_options.sh

[ "$failures" = 0 ] || { echo "$failures steps failed"; exit 1; }
