#!/bin/bash
# llama.yaml: zero3 on 8 GPUs on 2 machines, auto precision.
# Written by: sft launch llama.yaml --on slurm
set -euo pipefail

# --- knobs
SFT=/work/me/kit/.venv/bin/sft  # the kit
RUN=/work/me/runs/llama  # output_dir
RUN_FILE="$RUN/_sft/submitted.yaml"  # the run file as it was submitted, overrides included
OVERRIDES=(--max-restarts 3)  # of `sft launch`
cd /work/me

# --- launch.setup
set +u  # modules and conda are not written for -u
module load cuda
conda activate peft
set -u

export PYTHONSAFEPATH=1
exec "$SFT" launch "$RUN_FILE" "${OVERRIDES[@]}"
