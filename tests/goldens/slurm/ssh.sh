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
HOSTS=(me@n1 n2)  # machine 0 first
SSH=(ssh -p 2222 -i 'my key')
MASTER_ADDR=n1  # of machine 0, as the others reach it
MASTER_PORT=29500
LOGS="$RUN/_sft/logs"
cd /work/me

# --- here: a connection a machine; without its terminal there, a supervisor would not hear that it ends
start() { exec "${SSH[@]}" -tt "${HOSTS[$1]}" "exec bash ${SCRIPT@Q} machine $1" </dev/null; }
if [[ ${1:-} != machine ]]; then
    for ((rank = ${#HOSTS[@]} - 1; rank > 0; rank--)); do
        start "$rank" >>"$LOGS/node-$rank.log" 2>&1 &
    done
    start 0
fi

# --- launch.setup
set +u  # modules and conda are not written for -u
module load cuda
conda activate peft
set -u

# --- on each machine
export PYTHONSAFEPATH=1 TERM=dumb  # nobody looks at this terminal
exec "$SFT" launch "$RUN_FILE" "${OVERRIDES[@]}" \
    --machine_rank "$2" --main_process_ip "$MASTER_ADDR" --main_process_port "$MASTER_PORT"
