#!/bin/sh
# Runs every test that is built in $BUILD: the unit tests, then the integration tests against a real daemon and a real
# PostgreSQL, then the fault tests. `make test` and `make check` call it. T=pattern runs only the tests whose name matches,
# TESTS="unit fault" only these kinds; TOLL_PYTEST has more words for pytest (--pdb). TOLL_JOBS tests of a real daemon
# run at a time: they wait more than they work.
#
# The last line is the count, "N passed, N failed"; the exit status is 0 only when something ran and nothing failed. A
# skipped test counts as failed (one that needs root is listed instead), and so does a sanitizer's report in any process
# that any test started.
set -u

cd "$(dirname "$0")/.." || exit 1
build=$(realpath "${BUILD:-build}") || exit 1
pattern=${T:-}
kinds=${TESTS:-unit integration fault}
jobs=${TOLL_JOBS:-3}
passed=0
failed=0
work=$(mktemp -d /tmp/toll-run.XXXXXX) || exit 1
others='' # processes that run tests beside this one
trap 'kill $others 2>/dev/null; rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

export TOLL_BUILD="$build" PYTHONDONTWRITEBYTECODE=1 LC_ALL=C.UTF-8
unset DATABASE_URL NOTIFY_SOCKET LISTEN_FDS LISTEN_PID TOLL_SOCKET TOLL_STATE_DIR TOLL_CONTROL CK_VERBOSITY

# --- sanitizers: reports go to files, which count at the end whoever wrote them ---

prefix=''
mkdir "$work/reports" && chmod 711 "$work" && chmod 1777 "$work/reports" # tests change users
reports="log_path=$work/reports/by"
case $(nm -D --undefined-only "$build/tolld" 2>/dev/null) in
*__tsan_init*)
    export TOLL_SLOWNESS="${TOLL_SLOWNESS:-6}" CK_TIMEOUT_MULTIPLIER=10
    export TSAN_OPTIONS="halt_on_error=0:exitcode=66:second_deadlock_stack=1:$reports"
    [ ! -e tests/support/tsan.supp ] || TSAN_OPTIONS="$TSAN_OPTIONS:suppressions=$PWD/tests/support/tsan.supp"
    # ThreadSanitizer can't place its shadow memory under a kernel's widest address randomization.
    if setarch "$(uname -m)" -R true 2>/dev/null; then
        prefix="setarch $(uname -m) -R"
    fi
    ;;
*__asan_init*)
    export TOLL_SLOWNESS="${TOLL_SLOWNESS:-4}" CK_TIMEOUT_MULTIPLIER=6
    export ASAN_OPTIONS="halt_on_error=1:exitcode=66:detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1:$reports"
    export UBSAN_OPTIONS="halt_on_error=1:print_stacktrace=1:exitcode=66:$reports"
    ;;
esac

# --- unit tests: check prints "100%: Checks: N, Failures: F, Errors: E" ---

number() { # number TEXT KEY: the number that follows "KEY: " in TEXT
    printf '%s\n' "$1" | sed -n "s/^[0-9]*%: .*$2: \([0-9]*\).*/\1/p" | tail -n 1
}

unit_test() {
    name=${1##*/}
    began=$(date +%s%N)
    # shellcheck disable=SC2086 # the prefix is words
    $prefix "$1" </dev/null >"$work/output" 2>&1
    status=$?
    took=$((($(date +%s%N) - began) / 1000000))
    output=$(cat "$work/output")
    checks=$(number "$output" Checks)
    bad=$(($(number "$output" Failures) + $(number "$output" Errors) + 0))
    if [ -z "$checks" ]; then
        bad=1
        checks=1
    elif [ "$status" != 0 ] && [ "$bad" = 0 ]; then
        bad=1
        checks=$((checks + 1))
    elif [ "$checks" = 0 ]; then
        bad=1
        checks=1
    fi
    passed=$((passed + checks - bad))
    failed=$((failed + bad))
    if [ "$bad" = 0 ]; then
        printf 'ok     %-28s %4d checks %7d ms\n' "$name" "$checks" "$took"
        grep -vE '^Running suite|^[0-9]+%: Checks' "$work/output" | sed 's/^/       /'
    else
        printf 'FAILED %-28s %4d of %d checks, exit status %d\n' "$name" "$bad" "$checks" "$status"
        sed 's/^/       /' "$work/output"
    fi
}

wants() { case " $kinds " in *" $1 "*) ;; *) return 1 ;; esac; }

unit_tests() {
    for binary in "$build"/tests/test_*; do
        if [ -f "$binary" ] && [ -x "$binary" ]; then
            # A binary whose source is gone is a leftover of an earlier build.
            [ -e "tests/unit/${binary##*/}.c" ] || continue
            case ${binary##*/} in
            *"$pattern"*) unit_test "$binary" ;;
            esac
        fi
    done
    echo "$passed $failed" >"$work/counts.unit"
}

# --- integration and fault tests ---

python_tests() { # python_tests DIRECTORY…: several processes, each takes the next test that none has taken
    mkdir "$work/claims"
    job=1
    while [ "$job" -lt "$jobs" ]; do
        one_job "$job" "$@" >"$work/output.$job" 2>&1 &
        others="$others $!"
        job=$((job + 1))
    done
    one_job "$job" "$@"
    # shellcheck disable=SC2086 # a list of words
    wait $others
    others=''
    job=1
    while [ "$job" -le "$jobs" ]; do
        [ "$job" = "$jobs" ] || cat "$work/output.$job"
        add_counts "$job"
        job=$((job + 1))
    done
}

one_job() {
    number=$1
    shift
    # shellcheck disable=SC2086 # the prefix is words
    TOLL_CLAIMS="$work/claims" TOLL_COUNTS="$work/counts.$number" $prefix /usr/bin/python3 -m pytest -v --no-header --tb=short ${TOLL_PYTEST:-} \
        -p no:cacheprovider ${pattern:+-k "$pattern"} "$@" </dev/null
    echo $? >"$work/status.$number"
}

add_counts() {
    status=$(cat "$work/status.$1" 2>/dev/null || echo unknown)
    if [ -s "$work/counts.$1" ]; then
        read -r pytest_passed pytest_failed not_run <"$work/counts.$1"
        passed=$((passed + pytest_passed))
        failed=$((failed + pytest_failed))
        [ "$not_run" = 0 ] || echo "NOT RUN, and not counted: $not_run tests that need root"
        # 5: nothing matched the pattern. Any other status that no count explains is a failure of its own.
        if [ "$status" != 0 ] && [ "$pytest_failed" = 0 ] && ! { [ "$status" = 5 ] && [ -n "$pattern" ]; }; then
            failed=$((failed + 1))
            echo "FAILED pytest ended with status $status"
        fi
    else
        failed=$((failed + 1))
        echo "FAILED pytest ended with status $status before it counted anything"
    fi
}

set --
! wants integration || set -- "$@" tests/integration
! wants fault || set -- "$@" tests/fault
units=''
if wants unit && [ $# != 0 ]; then
    unit_tests >"$work/output.unit" 2>&1 & # beside the others, which wait more than they work
    others=$!
    units=beside
elif wants unit; then
    unit_tests
fi
[ $# = 0 ] || python_tests "$@"
if [ -n "$units" ]; then
    cat "$work/output.unit"
    read -r passed_units failed_units <"$work/counts.unit" || failed_units=1
    passed=$((passed + ${passed_units:-0}))
    failed=$((failed + failed_units))
fi

# --- what sanitizers wrote ---

for report in "$work"/reports/*; do
    [ -s "$report" ] || continue
    failed=$((failed + 1))
    echo "FAILED a sanitizer's report:"
    head -n 120 "$report"
done

[ $((passed + failed)) != 0 ] || echo "no test ran${pattern:+: none has \"$pattern\" in its name}"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" != 0 ]
