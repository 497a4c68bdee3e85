#!/usr/bin/env bash
# Make .venv and install the pinned kit into it. Finished once, it has nothing more to do.
#
#   launch/setup.sh [EXTRA ...]        e.g. launch/setup.sh dev
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

# --- knobs
PYTHON="${PYTHON:-}"            # a Python from 3.11 on; default: the first one found
export TORCH="${TORCH:-auto}"   # cpu, cuda, or auto: the CPU build of PyTorch where there is no NVIDIA GPU

# --- a Python that is new enough
is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

for candidate in ${PYTHON:+"$PYTHON"} python3 python3.11 python3.12 python3.13 "$(uv python find '>=3.11' 2>/dev/null || true)"; do
    if [[ -n "$candidate" ]] && is_new_enough "$candidate"; then
        PYTHONPATH="$ROOT" PYTHONDONTWRITEBYTECODE=1 exec "$candidate" -P -m sft.quickstart.environment "$@"
    fi
done
cat >&2 <<'TEXT'
There is no Python 3.11 or newer on this machine
  where: PATH (python3, python3.11, python3.12, python3.13)
  fix:   install one (apt install python3.11-venv, or uv python install 3.11), or name it: PYTHON=/path/to/python3
TEXT
exit 4
