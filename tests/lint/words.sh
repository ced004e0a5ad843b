#!/bin/sh
# No file of the project knows the machine or the circumstances it was written in: home directories, scratch paths, private
# hosts, or a conversation about the code instead of the code. Extend the pattern when something new slips in.
set -u

cd "$(dirname "$0")/../.." || exit 1
pattern='(^|[^A-Za-z0-9_./$}-])/(root|home|work)/[A-Za-z0-9_.]|/tmp/toll/|\.\./shared/|[a-z0-9]\.(internal|corp|lan)[/:]'
pattern="$pattern"'|sub-?agents?\b|\bas an ai\b|language model assistant|\bthe (user|lead) asked\b|TODO\(|FIXME|XXX:'

if git rev-parse --git-dir >/dev/null 2>&1; then
    found=$(git grep --untracked -nIiE "$pattern" -- . ':!tests/lint/words.sh')
else
    found=$(grep -rnIiE --exclude-dir=build --exclude=words.sh "$pattern" .)
fi
[ -z "$found" ] || { printf '%s\n' "$found"; exit 1; }
