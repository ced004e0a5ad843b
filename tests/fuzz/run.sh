#!/bin/sh
# run.sh [SECONDS]: runs each fuzzer built in $BUILD/fuzz for so long (30). `make fuzz` calls it. Stops at the first finding,
# keeps its input and says how to run it again; a finding that is mended becomes a regression test among the unit tests.
#
# What a fuzzer has learnt stays in $BUILD/fuzz/corpus; fuzz_frame begins with tests/fuzz/corpus/frame, and so on.
set -eu

cd "$(dirname "$0")/../.."
build=${BUILD:-build}
seconds=${1:-30}
ran=0

for fuzzer in "$build"/fuzz/fuzz_*; do
    if [ ! -f "$fuzzer" ] || [ ! -x "$fuzzer" ]; then
        continue
    fi
    name=${fuzzer##*/}
    corpus=$build/fuzz/corpus/$name
    findings=$build/fuzz/findings/$name-
    log=$build/fuzz/$name.log
    mkdir -p "$corpus" "$build/fuzz/findings"
    set -- "$corpus" "tests/fuzz/corpus/${name#fuzz_}"
    if ! ASAN_OPTIONS=detect_leaks=1 "$fuzzer" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -max_len=70000 -print_final_stats=1 \
        -artifact_prefix="$findings" "$@" >"$log" 2>&1 </dev/null; then
        tail -n 60 "$log"
        echo "FAILED $name: run it again with: $fuzzer $findings…"
        exit 1
    fi
    ran=$((ran + 1))
    printf 'ok     %-20s %10s inputs in %s s, %s kept\n' "$name" "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")" "$seconds" \
        "$(find "$corpus" -type f | wc -l)"
done
[ "$ran" -gt 0 ] || { echo "no fuzzer in $build/fuzz"; exit 1; }
