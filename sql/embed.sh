#!/bin/sh
# Writes C source to standard output that holds the SQL files given as arguments: the table toll_migrations of daemon/migrate.h.
# A file's name there is its path below sql/, without ".sql"; what kind it is follows from its directory. It does not
# put them in order: migrate.c does.
set -eu

[ $# -gt 0 ] || {
    echo 'usage: embed.sh sql/migrations/001_name.sql ... > migrations.c' >&2
    exit 2
}

echo '/* Made by sql/embed.sh. */'
echo '#include "daemon/migrate.h"'
echo
echo 'const struct toll_migration toll_migrations[] = {'
for file in "$@"; do
    name=${file#sql/}
    name=${name%.sql}
    case $name in
    migrations/*) kind=TOLL_MIGRATION ;;
    functions/*) kind=TOLL_FUNCTIONS ;;
    views/*) kind=TOLL_VIEWS ;;
    roles) kind=TOLL_ROLES ;;
    *)
        echo "embed.sh: $file is neither a migration, nor functions, views or roles" >&2
        exit 1
        ;;
    esac
    printf '    {"%s", %s,\n' "$name" "$kind"
    sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/.*/     "&\\n"/' "$file"
    printf '    },\n'
done
echo '};'
echo 'const size_t toll_migrations_count = sizeof toll_migrations / sizeof *toll_migrations;'
