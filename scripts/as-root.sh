#!/usr/bin/env bash
# Runs a command as root, with the caller's cargo and PATH: as-root.sh COMMAND …
# A signal that the caller ignores (nohup, a shell's background) is not ignored there.
set -euo pipefail
[ "$(id -u)" -eq 0 ] && exec env --default-signal "$@"
command -v sudo >/dev/null || { echo "as-root.sh: this needs root, and there is no sudo here" >&2; exit 1; }
exec sudo -E env --default-signal "PATH=$PATH" "HOME=$HOME" "$@"
