#!/usr/bin/env bash
# Set up, then run what CI runs: lint, format, types, shell scripts, tests.
#
#   bash tests/run.sh                 # everything but the exhaustive tier
#   bash tests/run.sh --slow          # the exhaustive tier too
#   bash tests/run.sh -k environment  # the checks, and the tests that pytest's arguments name
set -euo pipefail

# --- knobs
WORKERS="${WORKERS:-2}" # tests at a time: most launch two processes, and wait for them

cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash launch/setup.sh dev
PATH="$PWD/.venv/bin:$PATH"

ruff check .
ruff format --check .
mypy sft/*.py sft/{check,cli,config,data,hub,launch,plan,quickstart,report,flow}
git ls-files -z '*.sh' .ci/run | xargs -0 shellcheck
python -m tests.slurm.install
exec python -m pytest -n "$WORKERS" "$@"
