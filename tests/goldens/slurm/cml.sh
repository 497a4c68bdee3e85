#!/bin/bash
# llama.yaml: zero3 on 8 GPUs on 2 machines, auto precision.
# Written by: sft launch llama.yaml --on slurm
set -euo pipefail

# --- knobs
SFT=/work/me/kit/.venv/bin/sft  # the kit
RUN=/work/me/runs/llama  # output_dir
RUN_FILE="$RUN/_sft/submitted.yaml"  # the run file as it was submitted, overrides included
OVERRIDES=(--max-restarts 3)  # of `sft launch`
SCRIPT=/work/me/runs/llama/_sft/job.sh  # this file: each machine reads it
MASTER_ADDR="${CDSW_IP_ADDRESS:-}"  # of this session, as the workers reach it
MASTER_PORT=0  # 0: any that is free
LOGS="$RUN/_sft/logs"
cd /work/me

export PYTHONSAFEPATH=1

# --- here: the workers are asked for, and this script is run again for machine 0, beside them
if [[ ${1:-} != machine ]]; then
    exec "$SFT" job cml "$RUN" --script "$SCRIPT" --address "$MASTER_ADDR" --port "$MASTER_PORT"
fi
if [[ $2 != 0 ]]; then
    exec >>"$LOGS/node-$2.log" 2>&1
fi

# --- launch.setup
set +u  # modules and conda are not written for -u
module load cuda
conda activate peft
set -u

# --- on each machine: its rank, and the address and port of machine 0
export TERM=dumb  # nobody looks at this terminal
exec "$SFT" launch "$RUN_FILE" "${OVERRIDES[@]}" \
    --machine_rank "$2" --main_process_ip "$3" --main_process_port "$4" "${@:5}"
