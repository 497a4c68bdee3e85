#!/usr/bin/env bash
# Train with stock accelerate and TRL on this machine.
# Written by: sft eject run.yaml --output stock
set -euo pipefail
FILES=/work/stock
export PYTHONSAFEPATH=1
export PYTHONUNBUFFERED=1
export TOKENIZERS_PARALLELISM=false
export NCCL_DEBUG=INFO
exec accelerate launch --config_file "$FILES/accelerate.yaml" \
    -m trl.scripts.sft --config "$FILES/trl_sft.yaml" "$@"
