#!/bin/sh
# The demo: simulated voice calls in, exact rows out, with the daemon killed in the middle. `make demo` calls it.
#
# Every command is printed as it is run, so all of it can be repeated by hand. Everything lives in one temporary directory,
# and nothing is left running; KEEP=1 leaves it up and says how to look around and how to stop it.
#
# shellcheck disable=SC2016,SC2317 # commands are shown before they expand; a trap calls stop_everything
set -eu

cd "$(dirname "$0")/../.."
build=${BUILD:-build}
if [ "$(id -u)" = 0 ]; then
    as_owner='runuser -u postgres -- ' # PostgreSQL refuses to run as root
else
    as_owner=''
fi
pgbin=${PG_BINDIR:-$(for each in /usr/lib/postgresql/*/bin; do echo "$each"; done | sort -V | tail -n 1)}
[ -x "$pgbin/initdb" ] || pgbin=$(dirname "$(command -v initdb)")
unset NOTIFY_SOCKET LISTEN_FDS LISTEN_PID PGOPTIONS PGSERVICE
export PSQLRC=/dev/null PAGER=cat

# --- telling ---

steps=0
began=$(date +%s)
heading() {
    steps=$((steps + 1))
    printf '\n%d. %s\n\n' "$steps" "$1"
}
say() { printf '   %s\n' "$@"; }
run() { # run COMMAND: prints it as one would type it, and runs it
    printf '   $ %s\n' "$1"
    result=0
    eval "$1" >"$D/output" 2>&1 || result=$?
    sed -e '${/^$/d' -e '}' -e 's/^/   /' "$D/output"
    return "$result"
}
quietly() { # the same for a command that stays, or says nothing of interest
    printf '   $ %s\n' "$1"
    eval "$1"
}
wait_for() { # wait_for SECONDS COMMAND: until it succeeds
    tries=$(($1 * 20))
    until eval "$2" >/dev/null 2>&1; do
        tries=$((tries - 1))
        if [ "$tries" -le 0 ]; then
            say "Still waiting for: $2"
            [ ! -s "$D/tolld.log" ] || tail -n 20 "$D/tolld.log"
            return 1
        fi
        sleep 0.05
    done
}
number() { # number FILE KEY: the number after "KEY" in JSON
    sed -n "s/.*\"$2\" *: *\([0-9][0-9]*\).*/\1/p" "$1" | tail -n 1
}
status_number() { # status_number KEY: of tollctl's status, 0 while the daemon is away
    "$build/tollctl" --json status 2>/dev/null >"$D/status" || true
    value=$(number "$D/status" "$1")
    echo "${value:-0}"
}
value() { psql -X -At -c "$1"; }

brief="tollctl status | grep -E '^(sink_state|frames_(received|stored|duplicate|pending)|sessions_live)'"

# --- the end, whatever happens ---

D=$(mktemp -d /tmp/toll-demo.XXXXXX)
tolld=''
sim=''
stop_everything() {
    trap - EXIT
    [ -z "$sim" ] || kill "$sim" 2>/dev/null || true
    [ -z "$tolld" ] || kill -KILL "$tolld" 2>/dev/null || true
    wait 2>/dev/null || true
    [ ! -e "$D/data/postmaster.pid" ] || $as_owner "$pgbin/pg_ctl" -D "$D/data" -m immediate stop >/dev/null 2>&1 || true
    rm -rf "$D"
}
trap stop_everything EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# --- the story ---

cat <<END
toll: what a voice call used, exact and once, in PostgreSQL.

Commands after a \$ can be typed by hand, in this directory. They share these variables:

   $ D=$D
   $ PATH=$build:$pgbin:\$PATH
   $ export TOLL_SOCKET=\$D/toll.sock TOLL_CONTROL=\$D/control.sock TOLL_STATE_DIR=\$D/state
   $ export PGHOST=\$D PGUSER=postgres PGDATABASE=toll
   $ export DATABASE_URL="host=\$D user=postgres dbname=toll"
END
PATH=$build:$pgbin:$PATH
export TOLL_SOCKET="$D/toll.sock" TOLL_CONTROL="$D/control.sock" TOLL_STATE_DIR="$D/state"
export PGHOST="$D" PGUSER=postgres PGDATABASE=toll
export DATABASE_URL="host=$D user=postgres dbname=toll"
chmod 755 "$D"
[ -z "$as_owner" ] || chown postgres: "$D"

heading 'A PostgreSQL cluster of its own, on a Unix socket'
quietly "${as_owner}initdb -D \$D/data -U postgres -A trust -E UTF8 --locale=C.UTF-8 >\$D/initdb.log"
quietly "${as_owner}pg_ctl -D \$D/data -l \$D/data/log -w -o \"-k \$D -h ''\" start >\$D/pg_ctl.log"
quietly "createdb toll"

heading 'The schema, from the daemon itself'
run 'tolld --migrate'

heading 'The daemon'
quietly 'mkdir $D/state'
quietly 'tolld 2>$D/tolld.log &'
tolld=$!
wait_for 10 'tollctl status'

heading 'Voice workers: several processes, linked with libtoll, play calls in several languages'
quietly 'tollsim --workers 4 --calls 12 --concurrent 5 --abandon 3 --seed 42 --pace 40 \
             --json >$D/sim.json 2>$D/sim.log &'
sim=$!
wait_for 20 '[ "$(status_number frames_received)" -ge 400 ] && [ "$(status_number sessions_live)" -ge 3 ]'
run "$brief"
in_flight=$(status_number sessions_live)

heading "SIGKILL for the daemon, with $in_flight calls in flight, and a new one in its place"
kill -0 "$sim" 2>/dev/null || { say 'The workers were done too early for this to prove anything.'; exit 1; }
quietly "kill -KILL $tolld"
{ wait "$tolld"; } 2>/dev/null || true
quietly 'tolld 2>>$D/tolld.log &'
tolld=$!
wait_for 10 'tollctl status'
say '' 'The workers noticed by themselves: what was not acknowledged they send again.'
wait "$sim" || { say 'tollsim failed:'; cat "$D/sim.json" "$D/sim.log"; exit 1; }
sim=''
run 'tollctl flush'
run "$brief"

heading 'The calls'
run "psql -c \"SELECT left(session_id::text, 8) AS session, metadata->>'user_id' AS user_id,
            round(duration_secs::numeric, 1) AS secs, coalesce(finish_reason, '(live)') AS finish,
            llm_calls AS llm, llm_input_tokens AS tokens_in, llm_output_tokens AS tokens_out,
            tts_chars, round(stt_audio_ms::numeric) AS stt_ms
       FROM session_totals ORDER BY live DESC, started_at, session_id LIMIT 14\""
say "$(value 'SELECT count(*) FROM billing_sessions') calls in all. The live ones never sent an end; idle for an hour, they are closed as orphaned."

heading 'One of them, word for word, with an answer the caller interrupted'
S=$(value "SELECT session_id FROM session_transcripts GROUP BY session_id
           ORDER BY bool_or(interrupted) DESC, count(DISTINCT language) DESC, abs(count(*) - 8), session_id LIMIT 1")
quietly "S=$S"
run "psql -c \"SELECT to_char(occurred_at, 'HH24:MI:SS.MS') AS at, role, language AS lang, interrupted AS cut,
            left(text, 60) AS text
       FROM session_transcripts WHERE session_id = '\$S' ORDER BY occurred_at LIMIT 16\""

heading 'Totals per model'
run 'psql -c "SELECT event_type AS type, provider, coalesce(model, meter) AS model, calls,
            input_tokens AS input, cached_input_tokens AS cached, output_tokens AS output, chars, audio_minutes AS minutes,
            trim_scale(quantity) AS quantity
       FROM model_usage ORDER BY event_type, provider, model, meter"'

heading 'The proof'
verified=yes
run 'tollctl verify' || verified=no
accepted=$(number "$D/sim.json" accepted)
acked=$(number "$D/sim.json" acked)
accepted=$((accepted + $(number "$D/sim.json" gaps))) # a report of refused frames is a frame, too
run "psql -c 'SELECT sum(received) AS received, sum(stored) AS stored, sum(duplicates) AS duplicates,
              sum(quarantined) AS quarantined FROM toll.batches'"
stored=$(value 'SELECT coalesce(sum(stored), 0) FROM toll.batches')
duplicates=$(value 'SELECT coalesce(sum(duplicates), 0) FROM toll.batches')
say '' "sent by the workers (accepted by libtoll)   $accepted" \
    "acknowledged to them as durable             $acked" \
    "stored in PostgreSQL                        $stored" \
    "received twice, and stored once             $duplicates"
verdict=0
if [ "$accepted" -gt 0 ] && [ "$accepted" = "$acked" ] && [ "$accepted" = "$stored" ] && [ "$verified" = yes ]; then
    say '' 'sent = stored: nothing lost, nothing twice, totals equal to the sum of events.'
else
    say '' 'FAILED: sent and stored differ, or tollctl verify found a fault.'
    cat "$D/sim.json"
    tail -n 30 "$D/tolld.log"
    verdict=1
fi

if [ -n "${KEEP:-}" ]; then
    cat >"$D/stop" <<END
kill $tolld
while kill -0 $tolld 2>/dev/null; do sleep 0.1; done
${as_owner}$pgbin/pg_ctl -D $D/data -m fast -w stop
rm -rf $D
END
    heading 'It stays up (KEEP=1)'
    say 'Set the variables from the top, then look around, for example:' '' \
        '$ psql                                  the tables: \d   the views: \dv   their meaning: \d+' \
        '$ tollctl sessions                      the live calls' \
        "\$ tollctl session $S" \
        '$ tollsim --workers 2 --calls 5         more calls' \
        "\$ tail -f $D/tolld.log" '' \
        'and stop it all with:' '' "\$ sh $D/stop"
    trap - EXIT
    exit "$verdict"
fi

heading 'The end'
quietly "kill $tolld"
wait "$tolld" || verdict=1
tolld=''
quietly "${as_owner}pg_ctl -D \$D/data -m fast -w stop >\$D/pg_ctl.log"
quietly 'rm -r $D'
printf '\nThat took %d seconds. Nothing is left running.\n' $(($(date +%s) - began))
exit "$verdict"
