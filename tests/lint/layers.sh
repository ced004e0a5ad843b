#!/bin/sh
# Who may include whom. A module may include the headers of what it consumes, never of what consumes it; there are no
# circles. A new module needs a line here: that line is a design decision.
#
# A module is a file's name without its ending. One with no line of its own belongs to the module that its name begins
# with: journal_file is part of journal, and its parts may include each other.
set -u

cd "$(dirname "$0")/../.." || exit 1

# module: what it may include besides its own headers and `floor` (which is the daemon's floor 0)
allowed='
proto:
client: proto
floor:
closer:
listener:
datagram: proto
journal:
ackpage:
streams: ackpage proto
credit: ackpage
session: proto
sink: session share proto
batch: sink session proto
pg: batch sink session proto
migrate:
sink_log: sink session proto
sink_postgres: pg migrate batch sink session proto
share: proto
registration: journal share
apply: journal datagram share session streams sink proto
writer: apply journal registration share sink
writers: writer apply journal registration share sink
door: datagram listener ackpage streams proto
intake: credit door closer listener datagram journal ackpage streams proto
pipeline: intake writers writer journal sink
rating: credit pg
alarm:
watch: alarm rating intake streams writers writer journal
config:
control: proto
commands: watch alarm rating control intake streams writers writer apply journal session
options: config
offline: options config journal migrate pg
opening: config journal listener
main: options config offline opening journal pipeline rating intake writers writer sink sink_log sink_postgres watch control commands
ctl: config control proto
tollctl: config ctl
'
floor=' version clock crc32c log metrics utf8 rangeset idhash '

# "file header" for every include of ours
includes() {
    find proto client daemon -name '*.[ch]' -exec grep -HoE '^#include "[^"]+"' {} + |
        sed -E 's/:#include "([^"]+)"/ \1/' | sort
}

includes | awk -v allowed="$allowed" -v floor="$floor" '
BEGIN {
    lines = split(allowed, line, "\n")
    for (i = 1; i <= lines; i++) {
        if (split(line[i], part, ":") < 2) continue
        known[part[1]] = 1
        for (n = split(part[2], word, " "); n > 0; n--) may[part[1], word[n]] = 1
    }
}
function module(path,    name) {
    if (path !~ /^daemon\//) { sub(/\/.*/, "", path); return path }
    name = path; sub(/^daemon\//, "", name); sub(/\.[ch]$/, "", name)
    if (index(floor, " " name " ")) return "floor"
    while (!(name in known) && name ~ /_/) sub(/_[^_]*$/, "", name)
    return (name in known) ? name : ""
}
function complain(what) { print what; bad = 1 }
{
    from = module($1); to = module($2)
    own = $2; sub(/\.h$/, "", own); stem = $1; sub(/\.[ch]$/, "", stem)
    if ($2 !~ /^(proto|client|daemon)\//) complain($1 ": \"" $2 "\" is not written from the root")
    else if (from == "" || to == "") complain($1 " includes " $2 ": no line in tests/lint/layers.sh says what the module may include")
    else if (from == "floor" && own != stem) complain($1 " includes " $2 ": floor 0 includes nothing of ours")
    else if (from != to && to != "floor" && !((from, to) in may)) complain($1 " includes " $2 ": " from " may not know " to)
    else if (from == "client" && to == "proto" && $2 !~ /\/(frame|walk|hot)\.h$/) complain($1 " includes " $2 ": the client knows encoding and the bounds walker only")
    else if ($2 !~ /\.h$/) complain($1 " includes " $2 ", which is no header")
}
END { exit bad }' || exit 1

# A circle of headers, inside a module too?
includes | grep '^[^ ]*[.]h ' | awk '$1 != $2' | tsort >/dev/null
