#!/usr/bin/env bash
# Train with stock accelerate and TRL: start it on every machine, with its MACHINE_RANK.
# Written by: sft eject run.yaml --output stock
set -euo pipefail
FILES=/work/stock
export PYTHONSAFEPATH=1
export PYTHONUNBUFFERED=1
export TOKENIZERS_PARALLELISM=false
: "${MACHINE_RANK:?0 on the first machine, 1 on the next, ...}"
: "${HEAD_NODE:?the first machine, by name or address}"
exec apptainer exec --nv kit.sif accelerate launch --config_file "$FILES/accelerate.yaml" \
    --machine_rank "$MACHINE_RANK" --main_process_ip "$HEAD_NODE" --main_process_port "${HEAD_PORT:-29500}" \
    -m trl.scripts.sft --config "$FILES/trl_sft.yaml" "$@"
