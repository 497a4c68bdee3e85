#!/bin/bash
# Train one run with several learning rates, each as a task of a job array:
#   sbatch launch/sweep.sh RUN.yaml [--key value ...]
# In the run file it is `launch.slurm.array: ["--learning_rate 1e-4", ...]`.
#SBATCH --job-name=sweep
#SBATCH --array=0-3
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --output=sweep-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@60
#SBATCH --requeue
set -euo pipefail

# --- knobs
RATES=(1e-4 2e-4 5e-4 1e-3)     # one task each: keep --array in step
RUNS="${RUNS:-runs/sweep}"      # each trains in a directory of its own below
KIT="${KIT:-$SLURM_SUBMIT_DIR}" # where the kit is

rate="${RATES[$SLURM_ARRAY_TASK_ID]}"
sft="$(command -v sft || echo "$KIT/.venv/bin/sft")"
script="$("$sft" launch "$@" --learning_rate "$rate" --output_dir "$RUNS/lr-$rate" --on slurm --dry-run)"
exec bash -c "$script"
