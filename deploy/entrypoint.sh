#!/bin/sh
# libpq reads the database's password from this variable, so that it stands in no command line.
set -eu
if [ -n "${PASSWORD_FILE:-}" ] && [ -r "${PASSWORD_FILE}" ]; then
    PGPASSWORD="$(cat "${PASSWORD_FILE}")"
    export PGPASSWORD
fi
exec inlier "$@"
