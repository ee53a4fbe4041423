#!/usr/bin/env bash
# Runs a command as root, with the caller's cargo and PATH: as-root.sh COMMAND …
set -euo pipefail
[ "$(id -u)" -eq 0 ] && exec "$@"
command -v sudo >/dev/null || { echo "as-root.sh: this needs root, and there is no sudo here" >&2; exit 1; }
exec sudo -E env "PATH=$PATH" "HOME=$HOME" "$@"
