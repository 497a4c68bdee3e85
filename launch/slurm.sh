#!/bin/bash
# Train one run on a Slurm cluster, with `#SBATCH` lines of your own. Edit them, then
#   sbatch launch/slurm.sh RUN.yaml [--key value ...]
# Nodes and GPUs have to be those of the run file: the job refuses to start otherwise.
# `sft launch RUN.yaml --on slurm` writes such lines from the run file.
#SBATCH --job-name=sft
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=04:00:00
#SBATCH --output=sft-%j.log
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@60
#SBATCH --requeue
set -euo pipefail

# --- knobs
KIT="${KIT:-$SLURM_SUBMIT_DIR}" # where the kit is; the job is submitted from there unless you say otherwise

# --- your site's set-up
# module load cuda
# conda activate peft

sft="$(command -v sft || echo "$KIT/.venv/bin/sft")"
script="$("$sft" launch "$@" --on slurm --dry-run)"
exec bash -c "$script"
