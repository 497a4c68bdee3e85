#!/usr/bin/env bash
# Train one run on this machine.
#   launch/train.sh RUN.yaml [--key value ...]
#   STRATEGY=zero3 NUM_PROCESSES=2 launch/train.sh RUN.yaml --learning_rate 2e-4
set -euo pipefail

# --- knobs; empty: as the run file has it
STRATEGY="${STRATEGY:-}"            # single ddp zero1 zero2 zero3 zero3_offload fsdp2 fsdp2_offload
NUM_PROCESSES="${NUM_PROCESSES:-}"  # GPUs, or processes where there is none

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
sft="$(command -v sft || echo "$here/.venv/bin/sft")"
exec "$sft" launch "$@" \
  ${STRATEGY:+--strategy "$STRATEGY"} \
  ${NUM_PROCESSES:+--num_processes "$NUM_PROCESSES"}
